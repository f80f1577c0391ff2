"""The audit of a task: who used which verb on it."""

from sqlalchemy import Engine, text

from schema.identity import TaskId
from taskserver.projection import wire_time
from taskserver.queries.details import no_task
from taskserver.queries.reading import one_statement
from taskserver.views.tasks import OperationRecord, Operations

_OPERATIONS = text(
    """
SELECT o.verb, o.principal, o.from_state, o.to_state, o.reason, o.created_at, o.subtask_id
FROM tasks AS t LEFT JOIN operations AS o ON o.task_id = t.id
WHERE t.id = :task AND t.account = :account ORDER BY o.id
"""
)


def task_operations(engine: Engine, task: TaskId, *, account: str) -> Operations:
    """Return the verbs used on the task, oldest first.

    Raises:
        NotFound: The account has no such task.

    """
    with one_statement(engine) as connection:
        rows = connection.execute(_OPERATIONS, {"task": task, "account": account}).mappings().all()
    if not rows:
        raise no_task(task)
    return Operations(
        contents=[
            OperationRecord(
                verb=row["verb"],
                principal=row["principal"],
                from_=row["from_state"],
                to=row["to_state"],
                reason=row["reason"],
                time=wire_time(row["created_at"]) or "",
                subtask_id=row["subtask_id"],
            )
            for row in rows
            if row["verb"] is not None
        ]
    )
