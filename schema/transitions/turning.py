"""Verbs that turn many subtasks do it in portions: the first in their own transaction, the others in a dispatcher's.

`task_progress.turning` tells how far such a verb has come: the subtasks with ids below it are still to be turned, from the
highest on. So each is turned once, whoever dies between two portions. Until the last is turned nothing of the task is
released, and it settles only if it is stopped. At 0 all are turned, but a rollback has not passed over all that it may.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from schema.identity import TaskId

MOST_SUBTASKS = 5_000  # in one transaction, so that a large task holds the lock for short times only
MOST_EDGES = 20_000
FROM_THE_LAST = 2**63 - 1

# One bound only inside, so that the index is walked from there, whatever the statistics say of a range.
_TOO_FAR = text(
    """
SELECT upstream_id FROM (
    SELECT upstream_id FROM subtask_edges WHERE upstream_id <= :highest ORDER BY upstream_id DESC OFFSET :most LIMIT 1
) AS e WHERE upstream_id >= :lowest
"""
)


def fitting(connection: Connection, ids: Sequence[int]) -> Sequence[int]:
    """Return of the ids, which descend, those from the first on that have not too many downstreams; at least the first."""
    if not ids:
        return ids
    parameters = {"lowest": ids[-1], "highest": ids[0], "most": MOST_EDGES}
    too_far = connection.execute(_TOO_FAR, parameters).scalar_one_or_none()
    return ids if too_far is None else [one for one in ids if one > too_far] or ids[:1]


_NOTE = text("UPDATE task_progress SET turning = :below WHERE id = :task AND turning IS DISTINCT FROM :below")


def note(connection: Connection, task: TaskId, *, below: int | None) -> None:
    """Note how far the verb has come; None when it is done. Holds the progress row."""
    connection.execute(_NOTE, {"task": task, "below": below})


_UNFINISHED = text("SELECT id FROM task_progress WHERE turning IS NOT NULL ORDER BY id LIMIT :limit")


def unfinished_tasks(connection: Connection, *, limit: int) -> list[TaskId]:
    """Return tasks in which a verb is to be gone on with."""
    return [TaskId(one) for one in connection.execute(_UNFINISHED, {"limit": limit}).scalars()]
