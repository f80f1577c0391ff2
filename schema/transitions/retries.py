"""Retry: FAILED → PENDING with operation RETRY, for one subtask or for all that failed in a task.

It grants the attempts anew, while the attempt number goes on, and gives the handler another idempotency key. Nothing that
has ended well runs again.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, text

from schema.errors import WrongState
from schema.identity import SubtaskId, TaskId
from schema.states import MENDABLE_TASK_STATES, Operation, SubtaskState, TaskState
from schema.transitions import claims, orders, progress, reopening, turning
from schema.transitions.orders import Order, Subject
from schema.transitions.progress import Progress

_FAILED = text(
    "SELECT id FROM subtasks WHERE task_id = :task AND state = 'FAILED' AND id < :below ORDER BY id DESC LIMIT :most"
)
_AGAIN = text(
    """
WITH again AS (
    UPDATE subtasks SET state = 'PENDING', operation = 'RETRY', failures = 0, starts = 0, generation = generation + 1,
        finalized_at = NULL, scheduled_at = NULL, carrier = NULL
    WHERE id = ANY (CAST(:ids AS bigint[])) AND task_id = :task AND state = 'FAILED'
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
    subject = orders.lock_task(connection, task, order)
    part = orders.find_subtask(connection, task, subtask)
    _require_retryable(subject, MENDABLE_TASK_STATES)
    part.require("retry", SubtaskState.FAILED)
    _refuse_busy_follower(connection, subject, subtask)
    _run_again(connection, subject.progress, [subtask])
    reopening.reopen(connection, subject, subject.operation)
    progress.wake_dispatcher(connection, task)
    orders.note(connection, "retry", order, subject, part)


def retry_task(connection: Connection, task: TaskId, order: Order) -> None:
    """Run all FAILED subtasks of a FAILED task again; of very many a dispatcher turns the rest.

    Raises:
        NotFound: The account has no such task.
        WrongState: It is not FAILED, was being rolled back, or has no subtasks.
        DuplicateInstance: Another task holds the instance by now.

    """
    subject = orders.lock_task(connection, task, order)
    _require_retryable(subject, {TaskState.FAILED})
    if subject.progress.total == 0:
        raise subject.refuse("retry", "has no subtasks", cure="abandon it; its error says why it has none")
    turn(connection, subject.progress, below=turning.FROM_THE_LAST)
    reopening.reopen(connection, subject, Operation.RETRY)
    orders.note(connection, "retry", order, subject)


def _require_retryable(subject: Subject, states: Collection[TaskState]) -> None:
    subject.require("retry", states)
    if subject.progress.undoing is not None:
        raise subject.refuse("retry", "is being rolled back", cure="roll it back again, or skip the step that failed")
    if subject.progress.stopping is not None and subject.state is not TaskState.FAILED:
        raise subject.refuse("retry", "is being stopped", cure=orders.UNTIL_SETTLED)


def turn(connection: Connection, locked: Progress, *, below: int) -> None:
    """Let a portion of what failed run again, from the last below this id on. Holds the progress row; nothing of it runs."""
    parameters = {"task": locked.id, "below": below, "most": turning.MOST_SUBTASKS}
    failed = connection.execute(_FAILED, parameters).scalars().all()
    portion = turning.fitting(connection, failed) if locked.allowed else failed
    _run_again(connection, locked, portion)
    more = len(portion) < len(failed) or len(portion) == turning.MOST_SUBTASKS
    turning.note(connection, locked.id, below=portion[-1] if more else None)


# What an allowed failure has let go on, and has not begun, waits again.
_BUSY_FOLLOWER = text(
    """
SELECT f.id, d.key FROM subtasks AS s JOIN subtask_edges AS e ON e.upstream_id = s.id
    JOIN subtasks AS f ON f.id = e.downstream_id JOIN subtask_specs AS d ON d.id = f.id
WHERE s.task_id = :task AND s.state = 'FAILED' AND s.allow_failure AND s.id = :subtask
    AND f.state IN ('RUNNING', 'CANCELING')
LIMIT 1
"""
)
_HOLD = text(
    """
WITH held AS (
    UPDATE subtasks AS f SET pending_upstreams = f.pending_upstreams + more.n
    FROM (
        SELECT e.downstream_id AS id, count(*)::int AS n
        FROM subtasks AS s JOIN subtask_edges AS e ON e.upstream_id = s.id
        WHERE s.id = ANY (CAST(:ids AS bigint[])) AND s.task_id = :task AND s.state = 'FAILED' AND s.allow_failure
        GROUP BY e.downstream_id
    ) AS more
    WHERE f.id = more.id
    RETURNING f.pending_upstreams = more.n AND f.state = 'PENDING' AND f.carrier IS NULL AND f.scheduled_at IS NULL
        AND f.gate IS NULL AS was_startable
)
UPDATE task_progress AS p SET startable = p.startable - n, change_number = p.change_number + 1
FROM (SELECT (count(*) FILTER (WHERE was_startable))::int AS n FROM held) AS counted WHERE p.id = :task AND n > 0
"""
)


def _refuse_busy_follower(connection: Connection, subject: Subject, subtask: SubtaskId) -> None:
    """Check that nothing runs that an allowed failure of the subtask has let go on.

    Raises:
        WrongState: Something does.

    """
    if not subject.progress.allowed:
        return
    busy = connection.execute(_BUSY_FOLLOWER, {"task": subject.id, "subtask": subtask}).one_or_none()
    if busy is not None:
        raise WrongState(
            f"subtask {busy.key!r} ({busy.id}) of task {subject.id} runs, which follows what is to be retried: wait until it"
            " has ended, or cancel it",
            target=str(busy.id),
        )


def _run_again(connection: Connection, locked: Progress, ids: Sequence[int]) -> None:
    parameters = {"task": locked.id, "ids": ids}
    if locked.allowed:
        claims.recall_all(connection, locked.id)
        connection.execute(_HOLD, parameters)
    connection.execute(_AGAIN, parameters)
