"""A revoke from Flower or `celery control`: the cancel verb, by the hex ids that Celery knows tasks and subtasks by.

Every worker is told of it: what another has asked to stop, or what has stopped since, counts as done.
"""

from sqlalchemy import Connection, text

from schema.errors import NotFound
from schema.identity import SubtaskId, TaskId, split_hex
from schema.states import LIVE_TASK_STATES, Operation, SubtaskState, TaskState
from schema.transitions import cancellations, orders
from schema.transitions.orders import Order, Part, Subject

_FIND = text(
    """
SELECT t.id AS task, d.id AS subtask FROM tasks AS t
    LEFT JOIN subtask_specs AS d ON d.task_id = t.id AND d.series_id = CAST(:series AS bigint)
WHERE t.task_id = :task
"""
)


def revoke(connection: Connection, hex_id: str, order: Order) -> None:
    """Cancel the task or the subtask of a Celery id, unless that has been done.

    Raises:
        NotFound: There is none.
        WrongState: The task has settled otherwise, or the subtask is not RUNNING.

    """
    task_hex, series = split_hex(hex_id)
    row = connection.execute(_FIND, {"task": task_hex, "series": series}).one_or_none()
    if row is None or (series is not None and row.subtask is None):
        raise NotFound(f"no task or subtask has the id {hex_id}", target=hex_id)
    task, subtask = TaskId(row.task), None if row.subtask is None else SubtaskId(row.subtask)
    subject = orders.lock_task(connection, task, order)
    if subtask is None:
        if not _is_stopped(subject):
            cancellations.cancel_task(connection, task, order)
    elif not _is_stopped_part(orders.find_subtask(connection, task, subtask)):
        cancellations.cancel_subtask(connection, task, subtask, order)


def _is_stopped(subject: Subject) -> bool:
    is_stopping = subject.state in LIVE_TASK_STATES and subject.progress.stopping is not None
    return is_stopping or subject.state is TaskState.REVOKED


def _is_stopped_part(part: Part) -> bool:
    has_stopped = part.state is SubtaskState.FAILED and part.operation is Operation.CANCEL
    return has_stopped or part.state is SubtaskState.CANCELING
