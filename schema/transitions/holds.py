"""Pause and resume: RUNNING | CREATED → SUSPENDED → RUNNING. What has begun ends; the rest is held back meanwhile."""

from sqlalchemy import Connection, text

from schema.identity import TaskId
from schema.states import TaskState
from schema.transitions import claims, orders, progress
from schema.transitions.orders import Order

_SUSPEND = text("UPDATE tasks SET state = 'SUSPENDED' WHERE id = :task AND state IN ('CREATED', 'RUNNING')")
_CLOSE = text(
    "UPDATE task_progress SET open = false, opens_at = NULL, change_number = change_number + 1 WHERE id = :task"
)


def pause(connection: Connection, task: TaskId, order: Order) -> None:
    """Hold the task back: what was released and has not begun is handed back, what has begun ends.

    Raises:
        NotFound: The account has no such task.
        WrongState: It is not CREATED or RUNNING, it is being stopped, or it was inserted by SQL a moment ago.

    """
    subject = orders.lock_task(connection, task, order)
    subject.require("pause", {TaskState.CREATED, TaskState.RUNNING})
    if subject.progress.stopping is not None:
        raise subject.refuse("pause", "is being stopped", cure=orders.UNTIL_SETTLED)
    if subject.progress.total == 0:
        raise subject.refuse("pause", "has no subtasks yet", cure="try again in a second")
    claims.recall_all(connection, task)
    connection.execute(_SUSPEND, {"task": task})
    connection.execute(_CLOSE, {"task": task})
    orders.note(connection, "pause", order, subject)


# One that was paused before it started starts with its first release, as any other.
_RESUME = text("UPDATE tasks SET state = 'RUNNING' WHERE id = :task AND state = 'SUSPENDED'")
# One that waits for its start, or for the holder of its instance, goes on waiting.
_OPEN = text(
    """
UPDATE task_progress AS p
SET open = t.queued_key IS NULL AND coalesce(t.start_at <= now(), true),
    opens_at = CASE WHEN t.queued_key IS NULL AND t.start_at > now() THEN t.start_at END,
    change_number = p.change_number + 1
FROM tasks AS t WHERE t.id = p.id AND p.id = :task
"""
)


def resume(connection: Connection, task: TaskId, order: Order) -> None:
    """Let a paused task go on.

    Raises:
        NotFound: The account has no such task.
        WrongState: It is not SUSPENDED.

    """
    subject = orders.lock_task(connection, task, order)
    subject.require("resume", {TaskState.SUSPENDED})
    connection.execute(_RESUME, {"task": task})
    connection.execute(_OPEN, {"task": task})
    progress.wake_dispatcher(connection, task)
    orders.note(connection, "resume", order, subject)
