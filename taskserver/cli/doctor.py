"""The `doctor` command: why a task does not move, and what to do about it."""

import typer

from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.exits import EPILOG, Exit
from taskserver.cli.output import print_json, print_line, print_table
from taskserver.cli.verbs import TaskArgument
from taskserver.client import Diagnosis


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG)(doctor)


def doctor(task: TaskArgument, *, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Tell why a task does not move, and what to do about it; exit code 1 if there is anything to tell.

    A task that moves, or that waits for its turn behind others, is well.
    """
    with connect(data) as server:
        found = server.task(task).diagnosis()
    if as_json:
        print_json(found.document)
    else:
        _print(found)
    if found.findings:
        raise typer.Exit(Exit.FAILED)


def _print(found: Diagnosis) -> None:
    print_line(found.summary)
    if found.findings:
        rows = [(one.severity, one.type, one.message, one.cure) for one in found.findings]
        print_table(("SEVERITY", "FINDING", "WHAT IS THE MATTER", "WHAT TO DO"), rows)
