"""Cancel and abandon: what runs is asked to stop (RUNNING → CANCELING → FAILED), the task ends once nothing runs.

The request stands in the database: the worker that holds a claim learns of it by NOTIFY at once, by its canceler's look in any
case, and whoever rescues a dead one's claim honours it. The deadline of a task is a cancel that nobody asked for, and ends FAILED.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId
from schema.states import LIVE_TASK_STATES, SubtaskState, TaskState
from schema.transitions import claims, orders, progress, settlement
from schema.transitions.orders import Order, Subject
from schema.transitions.progress import Stop

CANCELING_CHANNEL = "taskserver_canceling"

_ASK = text(
    f"""
WITH asked AS (
    UPDATE subtasks SET state = 'CANCELING'
    WHERE task_id = :task AND state = 'RUNNING' AND (CAST(:subtask AS bigint) IS NULL OR id = :subtask)
    RETURNING id
), counted AS (
    SELECT count(*)::int AS n FROM asked
), moved AS (
    UPDATE task_progress AS p SET running = p.running - n, canceling = p.canceling + n, change_number = p.change_number + 1
    FROM counted WHERE p.id = :task AND n > 0
)
SELECT pg_notify('{CANCELING_CHANNEL}', CAST(:task AS text)) FROM counted WHERE n > 0
"""
)


def cancel_subtask(connection: Connection, task: TaskId, subtask: SubtaskId, order: Order) -> None:
    """Ask a RUNNING subtask to stop; it ends FAILED with operation CANCEL, whatever its handler does.

    Raises:
        NotFound: The account has no such task, or the task no such subtask.
        WrongState: The subtask is not RUNNING.

    """
    subject = orders.lock_task(connection, task, order)
    part = orders.find_subtask(connection, task, subtask)
    part.require("cancel", SubtaskState.RUNNING)
    connection.execute(_ASK, {"task": task, "subtask": subtask})
    orders.note(connection, "cancel", order, subject, part)


def cancel_task(connection: Connection, task: TaskId, order: Order) -> None:
    """Let nothing more of the task begin and ask what runs to stop; it is REVOKED once nothing runs.

    Raises:
        NotFound: The account has no such task.
        WrongState: It has settled, or is being stopped already.

    """
    subject = orders.lock_task(connection, task, order)
    subject.require("cancel", LIVE_TASK_STATES)
    if subject.progress.stopping is not None:
        raise subject.refuse("cancel", "is being stopped already", cure=orders.UNTIL_SETTLED)
    connection.execute(_MARK, {"task": task, "operation": "CANCEL"})
    _stop(connection, subject, "CANCEL")
    orders.note(connection, "cancel", order, subject)


# Until nothing of it runs, a task that is being stopped is RUNNING.
_MARK = text(
    """
UPDATE tasks AS t SET operation = coalesce(:operation, t.operation),
    state = CASE WHEN p.running + p.canceling > 0 THEN 'RUNNING' ELSE t.state END
FROM task_progress AS p WHERE p.id = t.id AND t.id = :task AND t.state IN ('CREATED', 'RUNNING', 'SUSPENDED')
"""
)
_STOP = text(
    """
UPDATE task_progress SET open = false, opens_at = NULL, stopping = :why, turning = NULL, change_number = change_number + 1
WHERE id = :task
"""
)


def _stop(connection: Connection, subject: Subject, why: Stop) -> None:
    claims.recall_all(connection, subject.id)
    connection.execute(_STOP, {"task": subject.id, "why": why})
    connection.execute(_ASK, {"task": subject.id, "subtask": None})
    settlement.conclude(connection, before=subject.progress, after=progress.read(connection, subject.id))


_ABANDON = text(
    """
UPDATE tasks SET state = 'REVOKED', operation = 'CANCEL', abandoned = true, finalized_at = now()
WHERE id = :task AND state = 'FAILED'
"""
)
_ABANDONED = text("UPDATE task_progress SET change_number = change_number + 1 WHERE id = :task")


def abandon(connection: Connection, task: TaskId, order: Order) -> None:
    """Give a FAILED task up for good: FAILED → REVOKED.

    Raises:
        NotFound: The account has no such task.
        WrongState: It is not FAILED.

    """
    subject = orders.lock_task(connection, task, order)
    subject.require("abandon", {TaskState.FAILED})
    connection.execute(_ABANDON, {"task": task})
    connection.execute(_ABANDONED, {"task": task})
    progress.announce_settled(connection, task)
    orders.note(connection, "abandon", order, subject)


_OVERDUE = text(
    """
SELECT t.id FROM tasks AS t JOIN task_progress AS p ON p.id = t.id
WHERE t.deadline_at <= now() AND t.deadline_at IS NOT NULL AND t.finalized_at IS NULL AND p.stopping IS NULL
ORDER BY t.deadline_at LIMIT :limit
"""
)
_DEADLINE = Order("taskserver", account=None, reason="deadline")
# There is no arrow from CREATED to FAILED; nothing has started for all that.
_START_LATE = text("UPDATE tasks SET state = 'RUNNING' WHERE id = :task AND state = 'CREATED'")


def overdue_tasks(connection: Connection, *, limit: int) -> list[TaskId]:
    """Return tasks whose deadline has passed and that are not being stopped yet."""
    return [TaskId(one) for one in connection.execute(_OVERDUE, {"limit": limit}).scalars()]


def expire(connection: Connection, task: TaskId) -> None:
    """Stop a task whose deadline has passed; it is FAILED once nothing of it runs."""
    subject = orders.lock_task(connection, task, _DEADLINE)
    if (
        subject.state not in LIVE_TASK_STATES
        or subject.progress.stopping is not None
        or task not in _due(connection, task)
    ):
        return
    connection.execute(_START_LATE, {"task": task})
    connection.execute(_MARK, {"task": task, "operation": None})
    _stop(connection, subject, "DEADLINE")
    orders.note(connection, "deadline", _DEADLINE, subject)


_DUE = text("SELECT id FROM tasks WHERE id = :task AND deadline_at <= now()")


def _due(connection: Connection, task: TaskId) -> Sequence[int]:
    return connection.execute(_DUE, {"task": task}).scalars().all()


@dataclass(frozen=True, slots=True)
class Stopping:
    """A subtask that was asked to stop, and the claim under which it runs."""

    id: SubtaskId
    claim: int


# Said twice: the planner uses the partial index of what is claimed only where it finds that index's own words.
_STOPPING = text(
    """
SELECT id, claim FROM subtasks WHERE process = ANY (CAST(:processes AS bigint[])) AND state = 'CANCELING'
    AND state IN ('RUNNING', 'CANCELING')
"""
)


_HELD = text(
    """
SELECT id, state = 'CANCELING' AS is_stopping FROM subtasks
WHERE process = :process AND claim = :claim AND state IN ('RUNNING', 'CANCELING')
"""
)


def held_under(connection: Connection, *, process: int, claim: int) -> dict[SubtaskId, bool]:
    """Return what the process holds under the claim, and of each whether it is to stop."""
    rows = connection.execute(_HELD, {"process": process, "claim": claim})
    return {SubtaskId(row.id): row.is_stopping for row in rows}


def asked_to_stop(connection: Connection, processes: Sequence[int]) -> list[Stopping]:
    """Return what these pool processes hold and are to stop."""
    rows = connection.execute(_STOPPING, {"processes": list(processes)})
    return [Stopping(SubtaskId(row.id), row.claim) for row in rows]
