"""Deleting many settled tasks: in transactions of a bounded size, so that none is long and none holds many locks."""

from collections.abc import Iterable, Iterator

from sqlalchemy import Engine

from schema.database import transaction
from schema.identity import TaskId
from schema.transitions.deletion import delete_settled
from taskserver.queries.cmdb_tasks import Settled

_SUBTASKS_AT_ONCE = 10_000
_TASKS_AT_ONCE = 500


def delete_tasks(engine: Engine, found: Iterable[Settled]) -> int:
    """Delete the tasks, each whole, and return how many; one that an operator has brought back by now is left.

    Raises:
        Busy: Another transaction holds one of them; those before it are deleted.
        Unavailable: PostgreSQL is away; some are deleted. The same call goes on with the others.

    """
    deleted = 0
    for tasks in _portions(found):
        with transaction(engine) as connection:
            deleted += len(delete_settled(connection, tasks))
    return deleted


def _portions(found: Iterable[Settled]) -> Iterator[list[TaskId]]:
    portion: list[TaskId] = []
    subtasks = 0
    for one in found:
        if portion and (len(portion) == _TASKS_AT_ONCE or subtasks + one.subtask_count > _SUBTASKS_AT_ONCE):
            yield portion
            portion, subtasks = [], 0
        portion.append(one.task)
        subtasks += one.subtask_count
    if portion:
        yield portion
