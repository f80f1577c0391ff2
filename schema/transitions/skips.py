"""Skip: FAILED → SUCCESSFUL without a result, so that what follows may run; under a rollback FAILED → PENDING, undone."""

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId
from schema.states import MENDABLE_TASK_STATES, SubtaskState, TaskState
from schema.transitions import orders, progress, reopening, rollbacks, settlement
from schema.transitions.orders import Order, Subject
from schema.transitions.progress import Progress

# What failed as it might has let go on what follows it already.
_SKIP = text(
    """
WITH skipped AS (
    UPDATE subtasks SET state = 'SUCCESSFUL', operation = 'SKIP', finalized_at = now()
    WHERE id = :subtask AND task_id = :task AND state = 'FAILED'
    RETURNING id, allow_failure
), freed AS (
    SELECT e.downstream_id AS id FROM subtask_edges AS e JOIN skipped AS k ON k.id = e.upstream_id WHERE NOT k.allow_failure
), released AS (
    UPDATE subtasks AS s SET pending_upstreams = s.pending_upstreams - 1 FROM freed AS f WHERE s.id = f.id
    RETURNING s.pending_upstreams = 0 AND s.state = 'PENDING' AND s.carrier IS NULL AND s.scheduled_at IS NULL
        AND s.gate IS NULL AS startable
)
UPDATE task_progress AS p SET failed = p.failed - 1, allowed = p.allowed - k.allow_failure::int,
    successful = p.successful + 1, change_number = p.change_number + 1,
    startable = p.startable + (SELECT (count(*) FILTER (WHERE startable))::int FROM released)
FROM skipped AS k WHERE p.id = :task
"""
)


def skip_subtask(connection: Connection, task: TaskId, subtask: SubtaskId, order: Order) -> None:
    """Let what follows a FAILED subtask run as if it had ended well; other failures still hold the task.

    Raises:
        NotFound: The account has no such task, or the task no such subtask.
        WrongState: The subtask is not FAILED, or the task is ending.
        DuplicateInstance: Another task holds the instance by now.

    """
    subject = orders.lock_task(connection, task, order)
    part = orders.find_subtask(connection, task, subtask)
    subject.require("skip", MENDABLE_TASK_STATES)
    if subject.progress.stopping is not None and subject.state is not TaskState.FAILED:
        raise subject.refuse("skip", "is being stopped", cure=orders.UNTIL_SETTLED)
    if subject.progress.undoing is not None and subject.progress.turning:
        raise subject.refuse("skip", "is just being turned to its rollback", cure="wait a moment")
    part.require("skip", SubtaskState.FAILED)
    if subject.progress.undoing is None:
        connection.execute(_SKIP, {"task": task, "subtask": subtask})
    else:
        rollbacks.pass_failed(connection, task, subtask)
    _go_on(connection, subject)
    orders.note(connection, "skip", order, subject, part)


def _go_on(connection: Connection, subject: Subject) -> None:
    """Let the task go on unless other failures hold it, and settle it if nothing is left to do."""
    after = progress.read(connection, subject.id)
    if subject.state is TaskState.FAILED:
        if _stays_failed(connection, after):
            return
        reopening.reopen(connection, subject, subject.operation)
        after = progress.read(connection, subject.id)
    if settlement.conclude(connection, before=subject.progress, after=after) is None:
        progress.wake_dispatcher(connection, subject.id)  # the failure may have held back what has long been startable


def _stays_failed(connection: Connection, after: Progress) -> bool:
    """Tell whether other failures hold the task; a rollback goes on beside them with what they do not hold."""
    if after.undoing is None:
        return after.is_failing
    return settlement.ending(connection, after) is TaskState.FAILED
