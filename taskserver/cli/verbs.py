"""The commands that operate a task or a subtask: skip, cancel, pause, resume, rollback, abandon; `retry` is `retrying`."""

from typing import Annotated

import typer

from taskserver.cli.completion import subtask_keys, task_ids
from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.exits import EPILOG
from taskserver.cli.output import print_json, print_line, progress_line
from taskserver.client import Subtask, TaskDetail

TaskArgument = Annotated[int, typer.Argument(metavar="ID", help="The task's id.", min=1, autocompletion=task_ids)]
SubtaskArgument = Annotated[
    str | None,
    typer.Argument(metavar="SUBTASK", help="Only this subtask: its key or id.", autocompletion=subtask_keys),
]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Why; it is kept in the task's audit.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (skip, cancel, pause, resume, rollback, abandon):
        app.command(epilog=EPILOG)(command)


def skip(
    task: TaskArgument,
    subtask: Annotated[
        str, typer.Argument(metavar="SUBTASK", help="The subtask's key or id.", autocompletion=subtask_keys)
    ],
    *,
    reason: ReasonOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a FAILED subtask count as SUCCESSFUL, so that the task goes on without it."""
    with connect(data) as server:
        print_subtask(task, server.task(task).subtask(subtask).skip(reason), as_json=as_json)


def cancel(
    task: TaskArgument,
    subtask: SubtaskArgument = None,
    *,
    reason: ReasonOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a task, or one RUNNING subtask of it. What runs is asked to end, and killed if it does not."""
    with connect(data) as server:
        if subtask is None:
            print_task(server.task(task).cancel(reason), as_json=as_json)
        else:
            print_subtask(task, server.task(task).subtask(subtask).cancel(reason), as_json=as_json)


def pause(
    task: TaskArgument, *, reason: ReasonOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Hold a task: what has begun goes on to its end, nothing else begins until `resume`."""
    with connect(data) as server:
        print_task(server.task(task).pause(reason), as_json=as_json)


def resume(
    task: TaskArgument, *, reason: ReasonOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Let a paused task go on."""
    with connect(data) as server:
        print_task(server.task(task).resume(reason), as_json=as_json)


def rollback(
    task: TaskArgument, *, reason: ReasonOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Undo a FAILED task: the rollback of all that has begun, in reverse order; it ends ROLLED_BACK."""
    with connect(data) as server:
        print_task(server.task(task).rollback(reason), as_json=as_json)


def abandon(
    task: TaskArgument, *, reason: ReasonOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """Give a FAILED task up: it is REVOKED and cannot be retried any more."""
    with connect(data) as server:
        print_task(server.task(task).abandon(reason), as_json=as_json)


def print_task(detail: TaskDetail, *, as_json: bool) -> None:
    """Print what became of the task."""
    if as_json:
        print_json(detail.document)
    else:
        print_line("task", detail.id, detail.state, detail.document.get("operation"), progress_line(detail))


def print_subtask(task: int, subtask: Subtask, *, as_json: bool) -> None:
    """Print what became of the subtask."""
    if as_json:
        print_json(subtask.document)
    else:
        words = (subtask.status, subtask.document.get("operation"))
        print_line("task", task, "subtask", subtask.id, subtask.key, *words)
