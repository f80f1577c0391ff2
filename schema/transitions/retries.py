"""Retry: FAILED → PENDING with operation RETRY, for one subtask or for all that failed in a task.

It grants the attempts anew, while the attempt number goes on, and gives the handler another idempotency key. Nothing that
has ended well runs again.
"""

from collections.abc import Collection

from sqlalchemy import Connection, text

from schema.errors import WrongState
from schema.identity import SubtaskId, TaskId
from schema.states import Operation, SubtaskState, TaskState
from schema.transitions import claims, orders, progress, reopening
from schema.transitions.orders import Order, Subject

_BEGUN = {TaskState.RUNNING, TaskState.SUSPENDED, TaskState.FAILED}
_AGAIN = text(
    """
WITH again AS (
    UPDATE subtasks SET state = 'PENDING', operation = 'RETRY', failures = 0, starts = 0, generation = generation + 1,
        finalized_at = NULL, scheduled_at = NULL, carrier = NULL
    WHERE task_id = :task AND state = 'FAILED' AND (CAST(:subtask AS bigint) IS NULL OR id = :subtask)
    RETURNING pending_upstreams = 0 AND gate IS NULL AS startable, allow_failure
), counted AS (
    SELECT count(*)::int AS n, (count(*) FILTER (WHERE startable))::int AS startable,
        (count(*) FILTER (WHERE allow_failure))::int AS allowed
    FROM again
)
UPDATE task_progress AS p SET failed = p.failed - n, allowed = p.allowed - c.allowed, pending = p.pending + n,
    startable = p.startable + c.startable, change_number = p.change_number + 1
FROM counted AS c WHERE p.id = :task AND n > 0
"""
)


def retry_subtask(connection: Connection, task: TaskId, subtask: SubtaskId, order: Order) -> None:
    """Run a FAILED subtask again, also while its siblings run.

    Raises:
        NotFound: The account has no such task, or the task no such subtask.
        WrongState: The subtask is not FAILED, or the task is ending or being rolled back.
        DuplicateInstance: Another task holds the instance by now.

    """
    subject = _retryable(connection, task, order, _BEGUN)
    part = orders.find_subtask(connection, task, subtask)
    part.require("retry", SubtaskState.FAILED)
    _hold_followers(connection, subject, subtask)
    connection.execute(_AGAIN, {"task": task, "subtask": subtask})
    reopening.reopen(connection, subject, subject.operation)
    progress.wake_dispatcher(connection, task)
    orders.note(connection, "retry", order, subject, part)


def retry_task(connection: Connection, task: TaskId, order: Order) -> None:
    """Run all FAILED subtasks of a FAILED task again.

    Raises:
        NotFound: The account has no such task.
        WrongState: It is not FAILED, was being rolled back, or has no subtasks.
        DuplicateInstance: Another task holds the instance by now.

    """
    subject = _retryable(connection, task, order, {TaskState.FAILED})
    if subject.progress.total == 0:
        raise subject.refuse("retry", "has no subtasks")
    _hold_followers(connection, subject, None)
    connection.execute(_AGAIN, {"task": task, "subtask": None})
    reopening.reopen(connection, subject, Operation.RETRY)
    orders.note(connection, "retry", order, subject)


def _retryable(connection: Connection, task: TaskId, order: Order, states: Collection[TaskState]) -> Subject:
    subject = orders.lock_task(connection, task, order)
    subject.require("retry", states)
    if subject.progress.undoing is not None:
        raise subject.refuse("retry", "is being rolled back, roll it back again or skip the step")
    if subject.progress.stopping is not None and subject.state is not TaskState.FAILED:
        raise subject.refuse("retry", "is being stopped")
    return subject


# What an allowed failure has let go on, and has not begun, waits again.
_BUSY_FOLLOWER = text(
    """
SELECT d.key FROM subtasks AS s JOIN subtask_edges AS e ON e.upstream_id = s.id
    JOIN subtasks AS f ON f.id = e.downstream_id JOIN subtask_specs AS d ON d.id = f.id
WHERE s.task_id = :task AND s.state = 'FAILED' AND s.allow_failure AND (CAST(:subtask AS bigint) IS NULL OR s.id = :subtask)
    AND f.state IN ('RUNNING', 'CANCELING')
LIMIT 1
"""
)
_HOLD = text(
    """
UPDATE subtasks AS f SET pending_upstreams = f.pending_upstreams + held.n
FROM (
    SELECT e.downstream_id AS id, count(*)::int AS n
    FROM subtasks AS s JOIN subtask_edges AS e ON e.upstream_id = s.id
    WHERE s.task_id = :task AND s.state = 'FAILED' AND s.allow_failure
        AND (CAST(:subtask AS bigint) IS NULL OR s.id = :subtask)
    GROUP BY e.downstream_id
) AS held
WHERE f.id = held.id
"""
)


def _hold_followers(connection: Connection, subject: Subject, subtask: SubtaskId | None) -> None:
    """Count the subtasks that failed as they might, and are to run again, against what follows them.

    Raises:
        WrongState: What follows one of them runs.

    """
    if not subject.progress.allowed:
        return
    parameters = {"task": subject.id, "subtask": subtask}
    busy = connection.execute(_BUSY_FOLLOWER, parameters).scalar_one_or_none()
    if busy is not None:
        raise WrongState(
            f"subtask {busy!r} of task {subject.id} runs, which follows what is to be retried: wait until it has ended",
            target=busy,
        )
    claims.recall_all(connection, subject.id)
    connection.execute(_HOLD, parameters)
    progress.recount_startable(connection, subject.id)
