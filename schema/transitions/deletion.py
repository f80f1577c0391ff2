"""Deleting settled tasks whole: only the sync history stays, and the idempotency keys that were used for them.

The progress row is locked first, as by every transition, so that nobody brings a task back to life while it is being deleted.
What hangs on a task goes with its row, by the trigger that serves a plain DELETE as well, in the same transaction: a task is
there with everything, or it is gone.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from schema.identity import TaskId
from schema.states import SETTLED_TASK_STATES
from schema.transitions import progress

_DELETE = text(
    """
DELETE FROM tasks WHERE id = ANY (CAST(:tasks AS bigint[])) AND state = ANY (CAST(:settled AS text[])) RETURNING id
"""
)


def delete_settled(connection: Connection, tasks: Sequence[TaskId]) -> list[TaskId]:
    """Delete those of the tasks that have settled; return which. Others are left as they are.

    The transaction holds no lock yet. Whoever deletes many does it in several transactions.
    """
    progress.lock_all(connection, tasks)
    parameters = {"tasks": list(tasks), "settled": sorted(SETTLED_TASK_STATES)}
    return sorted(TaskId(task) for task in connection.execute(_DELETE, parameters).scalars())
