"""The client commands on what workers have registered: kinds, workers."""

import typer

from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.exits import EPILOG
from taskserver.cli.output import print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (kinds, workers):
        app.command(epilog=EPILOG)(command)


def kinds(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the kinds of work that can be submitted; `--json` has the schemas of their arguments."""
    with connect(data) as server:
        found = server.kinds()
    if as_json:
        print_json({"contents": [one.document for one in found]})
    else:
        rows = [(one.name, one.queue, one.timeout, one.max_attempts, one.description) for one in found]
        print_table(("NAME", "QUEUE", "TIMEOUT", "ATTEMPTS", "DESCRIPTION"), rows)


def workers(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the workers that live, or were heard of in the last hour."""
    with connect(data) as server:
        found = server.workers()
    if as_json:
        print_json({"contents": [one.document for one in found]})
    else:
        rows = [
            (
                *(one.name, "alive" if one.alive else "gone", one.concurrency, one.claims),
                *(",".join(one.queues), "" if one.kinds is None else ",".join(one.kinds)),
            )
            for one in found
        ]
        print_table(("NAME", "STATE", "SLOTS", "BUSY", "QUEUES", "KINDS"), rows)
