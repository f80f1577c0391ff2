"""The `submit` command: from a file, of a definition or of a single kind; made so that plain cron can call it."""

import sys
from typing import Annotated, Any

import typer

from schema.errors import InvalidArgument
from taskserver.cli.completion import definition_names, kind_names
from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.documents import read_submission, single_subtask, text_cure, with_arguments
from taskserver.cli.exits import EPILOG, Interrupted
from taskserver.cli.output import print_json
from taskserver.cli.watching import finish, follow
from taskserver.client import InvalidRequest, Task, TaskServer

PATIENCE_SECONDS = 5.0  # a server that is started again answers within that
POLICIES = ("reject", "return", "queue", "allow")

FileArgument = Annotated[
    str | None, typer.Argument(metavar="FILE|-", help="A submission in JSON; - is standard input.")
]
DefinitionOption = Annotated[
    str | None, typer.Option(help="Submit this definition instead of a file.", autocompletion=definition_names)
]
KindOption = Annotated[
    str | None,
    typer.Option(help="Submit a single subtask of this kind instead of a file.", autocompletion=kind_names),
]
ArgumentsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arg",
        metavar="NAME=VALUE",
        help="An argument of the task, or of the single subtask of --kind; the value is JSON, else text. Repeatable.",
    ),
]
InstanceOption = Annotated[int | None, typer.Option(help="What the task is about; tells duplicates.")]
DuplicateOption = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY",
        help=f"What to do while another task is at work on the same instance: {', '.join(POLICIES)}.",
        autocompletion=lambda: list(POLICIES),
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The same key again, within 24 hours, is the same task and no second one."),
]
PatienceOption = Annotated[
    float, typer.Option(metavar="SECONDS", help="How long to try while no server answers.", min=0)
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG)(submit)


def submit(
    file: FileArgument = None,
    *,
    definition: DefinitionOption = None,
    kind: KindOption = None,
    arguments: ArgumentsOption = None,
    name: Annotated[str | None, typer.Option(help="What the task is called.")] = None,
    instance_id: InstanceOption = None,
    on_duplicate: DuplicateOption = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.", min=0, max=9)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the task is settled.")] = False,
    idempotency_key: KeyOption = None,
    patience: PatienceOption = PATIENCE_SECONDS,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a task, and print its id.

    Give a FILE (or - for standard input), --definition or --kind. The other options come before what the file says.
    With --wait the exit code is 0 only if the task is SUCCESSFUL; Ctrl-C ends the waiting, not the task.
    """
    document = _document(file, definition, kind, arguments or [])
    members = {"name": name, "instanceId": instance_id, "onDuplicate": on_duplicate, "priority": priority}
    document |= {member: value for member, value in members.items() if value is not None}
    with connect(data, patience_seconds=patience) as server:
        task = _submit(server, document, idempotency_key, (arguments or []) if kind else [])
        if wait:
            raise typer.Exit(finish(task, follow(task, as_json=as_json), as_json=as_json))
        if as_json:
            print_json(task.detail().document)
            return
    sys.stdout.write(f"{task.id}\n")
    sys.stderr.write(f"task {task.id} submitted; `taskserver status {task.id} --watch` follows it\n")


def _document(file: str | None, definition: str | None, kind: str | None, arguments: list[str]) -> dict[str, Any]:
    if sum(one is not None for one in (file, definition, kind)) != 1:
        raise InvalidArgument("give one of a FILE (or - for standard input), --definition and --kind")
    if kind is not None:
        return single_subtask(kind, arguments)
    document = {"definition": definition} if file is None else read_submission(file)
    return with_arguments(document, arguments)


def _submit(server: TaskServer, document: dict[str, Any], key: str | None, arguments: list[str]) -> Task:
    try:
        return server.submit(document, idempotency_key=key)
    except InvalidRequest as error:
        error.message += text_cure(error.sub_errors, arguments)
        raise
    except KeyboardInterrupt as error:
        cure = "`taskserver list` shows it if so" if key is None else "with the same key it is safe to submit again"
        raise Interrupted(
            f"interrupted before the server answered; the task may have been submitted: {cure}"
        ) from error
