"""The end of a task: RUNNING | SUSPENDED → SUCCESSFUL | FAILED, in the transaction of its last subtask."""

from sqlalchemy import Connection, text

from schema.states import SETTLED_TASK_STATES, TaskState
from schema.transitions import progress
from schema.transitions.progress import Progress

_SETTLE = text(
    """
UPDATE tasks SET state = :state, finalized_at = now(), duplicate_key = NULL, error = (
    SELECT jsonb_build_object('type', a.error_type, 'message', a.error_message, 'subtask', d.key)
    FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id
        LEFT JOIN subtask_attempts AS a ON a.subtask_id = s.id AND a.attempt = s.attempt
    WHERE s.task_id = :task AND s.state = 'FAILED' AND NOT s.allow_failure AND :state = 'FAILED'
    ORDER BY s.finalized_at, s.id LIMIT 1
)
WHERE id = :task AND state IN ('RUNNING', 'SUSPENDED')
RETURNING id
"""
)
# Two questions, so that each has its partial index.
_NAMED = text(
    """
SELECT EXISTS (
    SELECT FROM subtasks WHERE task_id = :task AND operation <> 'EXECUTE' AND state = 'PENDING'
        AND pending_upstreams = 0 AND carrier IS NULL AND scheduled_at IS NULL AND gate IS NULL
) OR EXISTS (
    SELECT FROM subtasks WHERE task_id = :task AND operation <> 'EXECUTE' AND state = 'PENDING'
        AND scheduled_at IS NOT NULL
)
"""
)
_CLOSE = text("UPDATE task_progress SET open = false, change_number = change_number + 1 WHERE id = :task")


def conclude(connection: Connection, *, before: Progress, after: Progress) -> TaskState | None:
    """Settle the task if nothing is left to run; else wake the dispatcher if something new may start.

    Holds the progress row. Returns the settled state, or None while the task goes on.
    """
    if after.is_complete:
        return _settle(connection, after, TaskState.SUCCESSFUL)
    if after.is_failing and after.begun == 0 and after.ready == 0 and not _awaits_named(connection, after):
        return _settle(connection, after, TaskState.FAILED)
    if after.startable > before.startable or (after.startable and after.concurrency is not None):
        progress.wake_dispatcher(connection, after.id)
    return None


def _awaits_named(connection: Connection, after: Progress) -> bool:
    """Tell whether something that an operator named may still start: it does so although the task is failing."""
    return bool(after.pending and connection.execute(_NAMED, {"task": after.id}).scalar_one())


def _settle(connection: Connection, after: Progress, state: TaskState) -> TaskState | None:
    assert state in SETTLED_TASK_STATES
    if connection.execute(_SETTLE, {"task": after.id, "state": state}).one_or_none() is None:
        return None
    connection.execute(_CLOSE, {"task": after.id})
    progress.announce_settled(connection, after.id)
    return state
