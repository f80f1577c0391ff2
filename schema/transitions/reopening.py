"""FAILED → RUNNING: what retry, skip and rollback have in common. The task takes its instance again, or is refused."""

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from schema.errors import Busy, DuplicateInstance
from schema.instances import duplicate_key
from schema.states import Operation, TaskState
from schema.transitions import progress
from schema.transitions.orders import Subject

_UNIQUE_VIOLATION = "23505"
_INSTANCE = text("SELECT account, task_type, instance_id, extra, on_duplicate FROM tasks WHERE id = :task")
_HOLDER = text("SELECT id FROM tasks WHERE duplicate_key = :key AND id <> :task")
# A deadline is granted anew, as attempts are; an undoing has none.
_REOPEN = text(
    """
UPDATE tasks SET state = 'RUNNING', operation = :operation, finalized_at = NULL, error = NULL, duplicate_key = :key,
    deadline_at = CASE WHEN NOT :backwards THEN now() + deadline_seconds * interval '1 second' END
WHERE id = :task AND state = 'FAILED'
"""
)
_OPEN = text(
    """
UPDATE task_progress SET open = true, opens_at = NULL, stopping = NULL, change_number = change_number + 1
WHERE id = :task
"""
)


def reopen(connection: Connection, subject: Subject, operation: Operation) -> None:
    """Let a FAILED task run again with this operation; one that runs or is paused already is left as it is.

    Raises:
        DuplicateInstance: Another unsettled task holds the instance by now; `target` is its id.
        Busy: Another held it for a moment.

    """
    if subject.state is not TaskState.FAILED:
        return
    instance = connection.execute(_INSTANCE, {"task": subject.id}).mappings().one()
    key = duplicate_key(**instance)
    parameters = {
        "task": subject.id,
        "key": key,
        "operation": operation,
        "backwards": operation is Operation.ROLLBACK,
    }
    _refuse_held(connection, subject, key)
    try:
        with connection.begin_nested():
            connection.execute(_REOPEN, parameters)
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
        _refuse_held(connection, subject, key)  # who took it between the look and the move
        raise Busy(f"the instance of task {subject.id} was held until just now; the call can be made again") from error
    connection.execute(_OPEN, parameters)
    progress.wake_dispatcher(connection, subject.id)


def _refuse_held(connection: Connection, subject: Subject, key: str | None) -> None:
    if key is None:
        return
    holder = connection.execute(_HOLDER, {"key": key, "task": subject.id}).scalar_one_or_none()
    if holder is not None:
        raise DuplicateInstance(
            f"task {holder} holds the instance of task {subject.id} by now: wait until it has settled",
            target=str(holder),
        )
