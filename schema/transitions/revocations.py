"""A revoke from Flower or `celery control`: the cancel verb, by the hex ids that Celery knows tasks and subtasks by."""

from sqlalchemy import Connection, text

from schema.errors import NotFound
from schema.identity import SubtaskId, TaskId, split_hex
from schema.transitions import cancellations
from schema.transitions.orders import Order

_FIND = text(
    """
SELECT t.id AS task, d.id AS subtask FROM tasks AS t
    LEFT JOIN subtask_specs AS d ON d.task_id = t.id AND d.series_id = CAST(:series AS integer)
WHERE t.task_id = :task
"""
)


def revoke(connection: Connection, hex_id: str, order: Order) -> None:
    """Cancel the task or the subtask of a Celery id.

    Raises:
        NotFound: There is none.
        WrongState: The task has settled, or the subtask is not RUNNING.

    """
    task_hex, series = split_hex(hex_id)
    row = connection.execute(_FIND, {"task": task_hex, "series": series}).one_or_none()
    if row is None or (series is not None and row.subtask is None):
        raise NotFound(f"no task or subtask has the id {hex_id}", target=hex_id)
    if row.subtask is None:
        cancellations.cancel_task(connection, TaskId(row.task), order)
    else:
        cancellations.cancel_subtask(connection, TaskId(row.task), SubtaskId(row.subtask), order)
