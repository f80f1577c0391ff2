"""What the shell offers at TAB where only the server knows: ids of tasks, keys of subtasks, names.

A completion that cannot be had must not disturb the line that is being typed, so an error of ours is silence here.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress

import typer

from schema.errors import TaskserverError
from taskserver.cli.connection import connect
from taskserver.client import TaskServer

_SHOWN_TASKS = 20
_PATIENCE_SECONDS = 1.0  # somebody has pressed a key and waits

Offers = list[tuple[str, str]]


def task_ids(context: typer.Context) -> Offers:
    """Return the newest tasks, with their states and names."""
    return _asked(
        context,
        lambda server: ((str(one.id), f"{one.state} {one.name}") for one in server.tasks(size=_SHOWN_TASKS).contents),
    )


def subtask_keys(context: typer.Context) -> Offers:
    """Return the subtasks of the task that the line names, with their states."""
    task = context.params.get("task")
    if not isinstance(task, int):
        return []
    return _asked(context, lambda server: ((one.key, one.status) for one in server.task(task).detail().subtasks))


def kind_names(context: typer.Context) -> Offers:
    """Return the kinds that workers have registered."""
    return _asked(context, lambda server: ((one.name, one.description) for one in server.kinds()))


def definition_names(context: typer.Context) -> Offers:
    """Return the definitions."""
    return _asked(context, lambda server: ((one.name, one.description or "") for one in server.definitions()))


def _asked(context: typer.Context, question: Callable[[TaskServer], Iterable[tuple[str, str]]]) -> Offers:
    with suppress(TaskserverError), connect(context.params.get("data"), patience_seconds=_PATIENCE_SECONDS) as server:
        return list(question(server))
    return []
