"""The client commands on tasks: submit, list, status, show, log."""

import sys
from typing import Annotated

import typer

from schema.errors import InvalidArgument
from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.documents import read_submission, single_subtask
from taskserver.cli.exits import EPILOG
from taskserver.cli.output import print_detail, print_json, print_status, print_table, progress_line
from taskserver.cli.watching import finish, follow

TaskArgument = Annotated[int, typer.Argument(metavar="ID", help="The task's id.", min=1)]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(epilog=EPILOG)(submit)
    app.command("list", epilog=EPILOG)(list_tasks)
    app.command(epilog=EPILOG)(status)
    app.command(epilog=EPILOG)(show)
    app.command(epilog=EPILOG)(log)


def submit(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE|-", help="A submission in JSON; - is standard input.")
    ] = None,
    *,
    kind: Annotated[str | None, typer.Option(help="Submit a single subtask of this kind instead of a file.")] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An argument for --kind; the value is JSON, else text."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the task is settled.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Sent with the submission; a server of this version refuses it.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a task, and print its id."""
    if (file is None) == (kind is None):
        raise InvalidArgument("give either a FILE (or - for standard input) or --kind")
    if kind is None and arg:
        raise InvalidArgument("--arg belongs to --kind: write a file's arguments into the file")
    submission = single_subtask(kind, arg or []) if kind is not None else read_submission(file or "-")
    with connect(data) as server:
        detail = server.submit(submission, idempotency_key=idempotency_key)
        if wait:
            raise typer.Exit(finish(server, follow(server, detail.id), as_json=as_json))
    if as_json:
        print_json(detail.document)
    else:
        sys.stdout.write(f"{detail.id}\n")
        sys.stderr.write(f"task {detail.id} submitted; `taskserver status {detail.id} --watch` follows it\n")


def list_tasks(
    *,
    name: Annotated[str | None, typer.Option(help="Only tasks with this in their name.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only these states, such as RUNNING or FAILED; repeatable, or a comma list."),
    ] = None,
    creator: Annotated[str | None, typer.Option(help="Only tasks that this principal submitted.")] = None,
    page: Annotated[int, typer.Option(help="Which page.", min=1)] = 1,
    size: Annotated[int, typer.Option(help="Tasks on a page.", min=1, max=2000)] = 20,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tasks, the newest first."""
    filters = {"name": name, "state": ",".join(state or []), "creator": creator}
    query = {"page": page, "size": size} | {key: value for key, value in filters.items() if value}
    with connect(data) as server:
        found = server.tasks(query)
    if as_json:
        print_json(found.document)
        return
    rows = [
        (
            one.id,
            one.state,
            one.name,
            progress_line(one),
            one.create_time or "",
            (one.error and one.error.message) or "",
        )
        for one in found.contents
    ]
    print_table(("ID", "STATE", "NAME", "PROGRESS", "CREATED", ""), rows)
    numbers = found.page
    if numbers.total_pages > 1:
        sys.stderr.write(f"page {numbers.number} of {numbers.total_pages}, {numbers.total_elements} tasks\n")


def status(
    task: TaskArgument,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show progress until the task is settled.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the state and the progress of a task."""
    with connect(data) as server:
        if watch:
            raise typer.Exit(finish(server, follow(server, task), as_json=as_json))
        found = server.status(task)
    if as_json:
        print_json(found.document)
    else:
        print_status(found)


def show(task: TaskArgument, *, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show a task with all its subtasks."""
    with connect(data) as server:
        detail = server.detail(task)
    if as_json:
        print_json(detail.document)
    else:
        print_detail(detail)


def log(
    task: TaskArgument,
    subtask: Annotated[str, typer.Argument(metavar="SUBTASK", help="The subtask's key or id.")],
    *,
    attempt: Annotated[int | None, typer.Option(help="Only this attempt.", min=1)] = None,
    tail: Annotated[int | None, typer.Option(help="Only the last lines.", min=0)] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the log of a subtask."""
    with connect(data) as server:
        found = server.subtask(task, subtask)
        parts = server.log(task, found.id, attempt=attempt, tail=tail)
        if as_json:
            print_json({"taskId": task, "subtaskId": found.id, "key": found.key, "log": "".join(parts)})
            return
        for part in parts:
            sys.stdout.write(part)
