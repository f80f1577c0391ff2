"""The `retry` command: a task, one subtask of it, or many tasks at once."""

from typing import Annotated

import typer

from schema.errors import InvalidArgument
from taskserver.cli.completion import task_ids
from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.exits import EPILOG, Exit
from taskserver.cli.filters import (
    AfterOption,
    BeforeOption,
    CreatorOption,
    InstanceOption,
    NameOption,
    TaskTypeOption,
    TypeOption,
)
from taskserver.cli.output import print_json, print_table
from taskserver.cli.verbs import ReasonOption, SubtaskArgument, print_subtask, print_task
from taskserver.client import RetryAnswer
from taskserver.client.submissions import TaskFilters, filter_query


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG)(retry)


def retry(
    task: Annotated[
        int | None, typer.Argument(metavar="ID", help="The task's id.", min=1, autocompletion=task_ids)
    ] = None,
    subtask: SubtaskArgument = None,
    *,
    ids: Annotated[
        list[str] | None, typer.Option(metavar="ID,ID…", help="These tasks; a comma list, or repeatable.")
    ] = None,
    all_failed: Annotated[
        bool,
        typer.Option("--all-failed", help="Every FAILED task; the options that begin with “Only” choose among them."),
    ] = False,
    name: NameOption = None,
    creator: CreatorOption = None,
    type_: TypeOption = None,
    task_type: TaskTypeOption = None,
    instance_id: InstanceOption = None,
    created_after: AfterOption = None,
    created_before: BeforeOption = None,
    reason: ReasonOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run what FAILED again: in a task, in one subtask of it, or in many tasks.

    Give an ID, --ids or --all-failed. For many tasks the exit code is 3 when the server refused one of them.
    """
    filters: TaskFilters = {
        "name": name,
        "creator": creator,
        "type": type_,
        "task_type": task_type,
        "instance_id": instance_id,
        "created_after": created_after,
        "created_before": created_before,
    }
    chosen = filter_query(filters)
    if sum((task is not None, ids is not None, all_failed)) != 1:
        raise InvalidArgument("give one of an ID, --ids and --all-failed")
    if chosen and not all_failed:
        raise InvalidArgument("the options that choose among failed tasks belong to --all-failed")
    with connect(data) as server:
        if task is not None and subtask is not None:
            print_subtask(task, server.task(task).subtask(subtask).retry(reason), as_json=as_json)
        elif task is not None:
            print_task(server.task(task).retry(reason), as_json=as_json)
        elif ids is not None:
            _finish(server.retry_tasks(_numbers(ids), reason=reason), as_json=as_json)
        else:
            _finish(server.retry_tasks(filter=chosen, reason=reason), as_json=as_json)


def _numbers(ids: list[str]) -> list[int]:
    words = [word for one in ids for word in one.replace(",", " ").split()]
    for word in words:
        if not (word.isascii() and word.isdigit()):
            raise InvalidArgument(f"--ids names {word!r}, which is no id of a task", target=word)
    return [int(word) for word in words]


def _finish(answers: list[RetryAnswer], *, as_json: bool) -> None:
    """Print what became of each task; the exit code tells whether the server refused one."""
    if as_json:
        print_json({"contents": [one.document for one in answers]})
    else:
        rows = [
            (one.id, "retried" if one.successful else "refused", one.error and one.error.message) for one in answers
        ]
        print_table(("ID", "RESULT", "REASON"), rows)
    raise typer.Exit(Exit.OK if all(one.successful for one in answers) else Exit.REFUSED)
