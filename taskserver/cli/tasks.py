"""The client commands that ask about tasks: list, status, show, operations, log."""

import sys
from typing import Annotated

import typer

from taskserver.cli.completion import subtask_keys
from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.exits import EPILOG
from taskserver.cli.filters import (
    AfterOption,
    BeforeOption,
    CreatorOption,
    InstanceOption,
    NameOption,
    StateOption,
    StatusOption,
    TaskTypeOption,
    TypeOption,
)
from taskserver.cli.output import print_detail, print_json, print_status, print_table, progress_line
from taskserver.cli.verbs import TaskArgument
from taskserver.cli.watching import finish, follow
from taskserver.client import Page


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("list", epilog=EPILOG)(list_tasks)
    for command in (status, show, operations, log):
        app.command(epilog=EPILOG)(command)


def list_tasks(
    *,
    name: NameOption = None,
    state: StateOption = None,
    status: StatusOption = None,
    creator: CreatorOption = None,
    type_: TypeOption = None,
    task_type: TaskTypeOption = None,
    instance_id: InstanceOption = None,
    created_after: AfterOption = None,
    created_before: BeforeOption = None,
    sort: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD[,asc|desc]", help="The order, `id,desc` if nothing is given; repeatable."),
    ] = None,
    page: Annotated[int, typer.Option(help="Which page.", min=1)] = 1,
    size: Annotated[int, typer.Option(help="Tasks on a page.", min=1, max=2000)] = 20,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tasks, the newest first."""
    with connect(data) as server:
        found = server.tasks(
            name=name,
            state=state,
            status=status,
            creator=creator,
            type=type_,
            task_type=task_type,
            instance_id=instance_id,
            created_after=created_after,
            created_before=created_before,
            sort=sort,
            page=page,
            size=size,
        )
    if as_json:
        print_json(found.document)
    else:
        _print_page(found)


def status(
    task: TaskArgument,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show progress until the task is settled.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the state and the progress of a task."""
    with connect(data) as server:
        asked = server.task(task)
        if watch:
            raise typer.Exit(finish(asked, follow(asked, as_json=as_json), as_json=as_json))
        found = asked.status()
    if as_json:
        print_json(found.document)
    else:
        print_status(found)


def show(task: TaskArgument, *, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show a task with all its subtasks, arguments and results; long ones are cut, `--json` has all of them."""
    with connect(data) as server:
        detail = server.task(task).detail()
    if as_json:
        print_json(detail.document)
    else:
        print_detail(detail)


def operations(task: TaskArgument, *, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show who did what to a task, and why."""
    with connect(data) as server:
        found = server.task(task).operations()
    if as_json:
        print_json({"contents": [one.document for one in found]})
    else:
        rows = [(one.time, one.verb, one.principal, one.subtask_id, one.from_, one.to, one.reason) for one in found]
        print_table(("TIME", "VERB", "PRINCIPAL", "SUBTASK", "FROM", "TO", "REASON"), rows)


def log(
    task: TaskArgument,
    subtask: Annotated[
        str, typer.Argument(metavar="SUBTASK", help="The subtask's key or id.", autocompletion=subtask_keys)
    ],
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as it is written, until the subtask has ended.")
    ] = False,
    attempt: Annotated[int | None, typer.Option(help="Only this attempt.", min=1)] = None,
    tail: Annotated[int | None, typer.Option(help="Of what is there only the last lines.", min=0)] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the log of a subtask."""
    with connect(data) as server:
        asked = server.task(task).subtask(subtask)
        if as_json:
            found = asked.detail()
            parts = asked.follow_log(attempt=attempt, tail=tail) if follow else [asked.log(attempt=attempt, tail=tail)]
            print_json({"taskId": task, "subtaskId": found.id, "key": found.key, "log": "".join(parts)})
        elif follow:
            for text in asked.follow_log(attempt=attempt, tail=tail):
                sys.stdout.write(text)
                sys.stdout.flush()
        else:
            sys.stdout.write(asked.log(attempt=attempt, tail=tail))


def _print_page(found: Page) -> None:
    rows = [
        (one.id, one.state, one.name, progress_line(one), one.create_time, one.error and one.error.in_words)
        for one in found.contents
    ]
    print_table(("ID", "STATE", "NAME", "PROGRESS", "CREATED", "ERROR"), rows)
    numbers = found.page
    if numbers.total_pages > 1:
        sys.stderr.write(f"page {numbers.number} of {numbers.total_pages}, {numbers.total_elements} tasks\n")
