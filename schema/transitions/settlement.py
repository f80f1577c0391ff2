"""The end of a task: RUNNING | SUSPENDED → SUCCESSFUL | FAILED | REVOKED | ROLLED_BACK, in the transaction of its last subtask.

One that was cancelled before it started ends from CREATED.
"""

from sqlalchemy import Connection, text

from schema.states import SETTLED_TASK_STATES, TaskState
from schema.transitions import duplicates, progress
from schema.transitions.progress import Progress

_SETTLE = text(
    f"""
WITH settled AS (
    UPDATE tasks SET state = :state, finalized_at = now(), duplicate_key = NULL, queued_key = NULL, error = CASE WHEN :late
        THEN jsonb_build_object('type', 'deadline', 'message', 'the task had not ended at its deadline')
        ELSE (
            SELECT jsonb_build_object('type', a.error_type, 'message', a.error_message, 'subtask', d.key)
            FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id
                LEFT JOIN subtask_attempts AS a ON a.subtask_id = s.id AND a.attempt = s.attempt
            WHERE s.task_id = :task AND s.state = 'FAILED' AND :state = 'FAILED' AND (NOT s.allow_failure OR :backwards)
            ORDER BY s.finalized_at, s.id LIMIT 1
        ) END
    WHERE id = :task AND (state IN ('RUNNING', 'SUSPENDED') OR (state = 'CREATED' AND :state = 'REVOKED'))
    RETURNING id
), closed AS (
    UPDATE task_progress AS p SET open = false, change_number = p.change_number + 1
    FROM settled WHERE p.id = settled.id
)
SELECT pg_notify('{progress.SETTLED_CHANNEL}', id::text), (SELECT duplicate_key FROM tasks WHERE id = :task) AS freed
FROM settled
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
        AND scheduled_at IS NOT NULL AND gate IS NULL
)
"""
)


def conclude(connection: Connection, *, before: Progress, after: Progress) -> TaskState | None:
    """Settle the task if nothing is left to run; else wake the dispatcher if something new may start.

    Holds the progress row. Returns the settled state, or None while the task goes on.
    """
    state = ending(connection, after)
    if state is not None:
        return _settle(connection, after, state)
    if after.startable > before.startable or (after.startable and after.concurrency is not None):
        progress.wake_dispatcher(connection, after.id)
    return None


_STOPPED = {"CANCEL": TaskState.REVOKED, "DEADLINE": TaskState.FAILED}


def ending(connection: Connection, after: Progress) -> TaskState | None:
    """Return how a task that has not settled, or has just been changed, ends now; None while something of it runs or may still start."""
    if after.stopping is not None:
        return None if after.begun else _STOPPED[after.stopping]
    if after.turning is not None:
        return None
    if after.undoing == 0:
        return TaskState.ROLLED_BACK
    if after.undoing is None and after.is_complete:
        return TaskState.SUCCESSFUL
    if after.is_failing and after.begun == 0 and after.ready == 0 and not _awaits_named(connection, after):
        return TaskState.FAILED
    return None


def _awaits_named(connection: Connection, after: Progress) -> bool:
    """Tell whether something that an operator named may still start: it does so although the task is failing."""
    return bool(after.pending and connection.execute(_NAMED, {"task": after.id}).scalar_one())


def _settle(connection: Connection, after: Progress, state: TaskState) -> TaskState | None:
    assert state in SETTLED_TASK_STATES
    parameters = {
        "task": after.id,
        "state": state,
        "late": after.stopping == "DEADLINE",
        "backwards": after.undoing is not None,
    }
    settled = connection.execute(_SETTLE, parameters).one_or_none()
    if settled is None:
        return None
    # In a statement of its own, which sees who has queued until now; its snapshot of before tells the key that was held.
    if settled.freed is not None:
        duplicates.hand_over(connection, settled.freed)
    return state
