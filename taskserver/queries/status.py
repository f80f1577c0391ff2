"""What polling asks: the status of tasks, and which of them have changed. One narrow statement each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, text

from schema.identity import TaskId
from schema.states import TaskState
from taskserver.projection import is_settled
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


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a task has come, for telling whether it has changed."""

    change_number: int
    settled: bool


_MARKS = text(
    """
SELECT t.id, t.state, p.change_number FROM tasks AS t JOIN task_progress AS p ON p.id = t.id
WHERE t.id = ANY (CAST(:ids AS bigint[]))
"""
)


def task_marks(engine: Engine, ids: Sequence[TaskId]) -> Mapping[TaskId, Mark]:
    """Return the marks of the tasks that are there, whoever's they are: for waiters whose right has been checked."""
    with one_statement(engine) as connection:
        rows = connection.execute(_MARKS, {"ids": list(ids)}).mappings()
        return {TaskId(row["id"]): Mark(row["change_number"], is_settled(TaskState(row["state"]))) for row in rows}
