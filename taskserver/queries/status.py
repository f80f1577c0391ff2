"""What polling asks: the status of tasks, and which of them have changed. One narrow statement each."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Engine, text

from schema.identity import TaskId
from taskserver.queries.reading import one_statement
from taskserver.queries.task_rows import STATUS, status_view
from taskserver.views.tasks import TaskStatus

_STATUSES = text(
    f"""
SELECT {STATUS} FROM tasks AS t JOIN task_progress AS p ON p.id = t.id
WHERE t.id = ANY (CAST(:ids AS bigint[])) AND t.account = :account
"""
)


def task_statuses(engine: Engine, ids: Sequence[TaskId], *, account: str) -> dict[TaskId, TaskStatus]:
    """Return the statuses of those tasks that the account has."""
    with one_statement(engine) as connection:
        rows = connection.execute(_STATUSES, {"ids": list(ids), "account": account}).mappings()
        return {TaskId(row["id"]): status_view(row) for row in rows}


# What is not known yet is asked for with a number that no task has; what is known to be gone, with none.
_NEVER_SEEN = -1
_CHANGED = text(
    f"""
SELECT w.id AS wanted, {STATUS}
FROM unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[])) AS w (id, number)
    LEFT JOIN (tasks AS t JOIN task_progress AS p ON p.id = t.id) ON t.id = w.id
WHERE p.change_number IS DISTINCT FROM w.number
"""
)


def changed_statuses(
    engine: Engine, ids: Collection[TaskId], known: Mapping[TaskId, TaskStatus | None]
) -> dict[TaskId, TaskStatus | None]:
    """Return the statuses that are others than the known ones, None for a task that is gone.

    Whoever's they are: for followers whose right has been checked.
    """
    with one_statement(engine) as connection:
        numbers = [_change_number(known, one) for one in ids]
        rows = connection.execute(_CHANGED, {"ids": list(ids), "numbers": numbers}).mappings()
        return {TaskId(row["wanted"]): None if row["id"] is None else status_view(row) for row in rows}


def _change_number(known: Mapping[TaskId, TaskStatus | None], task: TaskId) -> int | None:
    if task not in known:
        return _NEVER_SEEN
    status = known[task]
    return None if status is None else status.change_number
