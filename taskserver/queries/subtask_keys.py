"""Which subtask of a task has a key: one row by its unique index, for clients that know the key and need the id."""

from sqlalchemy import Engine, text

from schema.identity import TaskId
from taskserver.queries.details import no_task
from taskserver.queries.reading import one_statement
from taskserver.views.subtasks import KeyedSubtask, KeyedSubtasks

_BY_KEY = text(
    """
SELECT found.* FROM tasks AS t LEFT JOIN LATERAL (
    SELECT s.id, d.key, coalesce(d.name, d.key) AS name, coalesce(d.description, d.key) AS description, d.kind,
        s.state AS status, s.operation
    FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id
    WHERE d.task_id = t.id AND d.key = :key
) AS found ON true
WHERE t.id = :task AND t.account = :account
"""
)


def subtasks_of_key(engine: Engine, task: TaskId, key: str, *, account: str) -> KeyedSubtasks:
    """Return the subtask of that key, or none.

    Raises:
        NotFound: The account has no such task.

    """
    with one_statement(engine) as connection:
        row = connection.execute(_BY_KEY, {"task": task, "key": key, "account": account}).mappings().one_or_none()
    if row is None:
        raise no_task(task)
    return KeyedSubtasks(contents=[] if row["id"] is None else [KeyedSubtask(**row)])
