"""The client commands on definitions: list, show, put, delete."""

import sys
from typing import Annotated, Any

import typer

from taskserver.cli.completion import definition_names
from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.documents import read_submission
from taskserver.cli.exits import EPILOG
from taskserver.cli.output import in_json, print_json, print_line, print_table
from taskserver.client import Definition

# What the server adds to the document that was put.
_ADDED = {"id", "name", "version", "creator", "createTime", "deleteTime", "subtaskCount"}

definitions = typer.Typer(
    help="The task types that can be submitted by name. To put and delete needs an administrator's token.",
    no_args_is_help=True,
)
NameArgument = Annotated[str, typer.Argument(help="The definition's name.", autocompletion=definition_names)]


@definitions.command("list", epilog=EPILOG)
def list_definitions(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the definitions, each in its newest version."""
    with connect(data) as server:
        found = server.definitions()
    if as_json:
        print_json({"contents": [one.document for one in found]})
        return
    rows = [
        (one.name, one.version, one.document.get("subtaskCount"), one.create_time, one.description) for one in found
    ]
    print_table(("NAME", "VERSION", "SUBTASKS", "CREATED", "DESCRIPTION"), rows)


@definitions.command(epilog=EPILOG)
def show(
    name: NameArgument,
    *,
    version: Annotated[int | None, typer.Option(help="Which version; the newest one without it.")] = None,
    document: Annotated[
        bool, typer.Option("--document", help="Print only the document, to edit and put again.")
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a definition."""
    with connect(data) as server:
        found = server.definition(name, version)
    written = document_of(found)
    if as_json or document:
        print_json(written if document else found.document)
        return
    _print_version(found)
    for member, value in written.items():
        if member != "subtasks":
            print_line(f"{member}:", value if isinstance(value, str) else in_json(value))
    subtasks = written.get("subtasks", ())
    rows = [(one.get("key"), one.get("kind"), ",".join(one.get("upstreams", ()))) for one in subtasks]
    print_table(("KEY", "KIND", "UPSTREAMS"), rows)


@definitions.command(epilog=EPILOG)
def put(
    name: NameArgument,
    file: Annotated[str, typer.Argument(help="The document as JSON; - reads standard input.")],
    *,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a definition as its next version; an unchanged one makes none."""
    document = read_submission(file, needs='"subtasks" or "callback"')
    with connect(data) as server:
        stored = server.put_definition(name, document)
    if as_json:
        print_json(stored.document)
    else:
        _print_version(stored)


@definitions.command(epilog=EPILOG)
def delete(name: NameArgument, *, data: DataOption = None, as_json: JsonOption = False) -> None:
    """End a definition: nothing can be submitted by it any more; its tasks keep their versions."""
    with connect(data) as server:
        server.delete_definition(name)
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        sys.stdout.write(f"definition {name} deleted\n")


def document_of(definition: Definition) -> dict[str, Any]:
    """Return the document as it was put."""
    return {member: value for member, value in definition.document.items() if member not in _ADDED}


def _print_version(definition: Definition) -> None:
    print_line("definition", definition.name, "version", definition.version)
