"""The instance that a task holds, and the line of those that wait for it (`onDuplicate: "queue"`).

At most one unsettled task carries a `duplicate_key`; those behind it carry the same key as `queued_key`, and are closed. The
transaction that settles the holder gives the key to the first of the line, so that it is never free while somebody waits:
only what was submitted while its holder settled finds itself behind nobody, and a dispatcher's look helps it on.

Lock order: whoever settles a holder has its progress row, and here locks that of one waiting task, the only case of a second
one. That cannot close a circle. A waiting task is closed, so a dispatcher, which locks many, never locks it; a verb on it
locks nothing but its own; and who adopts it gives up before PostgreSQL would look for a deadlock.
"""

from sqlalchemy import Connection, text

from schema.identity import TaskId
from schema.transitions import progress

_LOCK_NEXT = text(
    """
SELECT id FROM task_progress
WHERE id = (SELECT id FROM tasks WHERE queued_key = :key AND id > :after ORDER BY id LIMIT 1) FOR UPDATE
"""
)
# Its start time counts from here: until now the task was closed and had no time to open.
_GIVE = text(
    f"""
WITH given AS (
    UPDATE tasks SET duplicate_key = queued_key, queued_key = NULL
    WHERE id = :task AND queued_key = :key AND NOT EXISTS (SELECT FROM tasks WHERE duplicate_key = :key)
    RETURNING id, state, start_at
), opened AS (
    UPDATE task_progress AS p SET open = g.state <> 'SUSPENDED' AND coalesce(g.start_at <= now(), true),
        opens_at = CASE WHEN g.state <> 'SUSPENDED' AND g.start_at > now() THEN g.start_at END,
        change_number = p.change_number + 1
    FROM given AS g WHERE p.id = g.id
)
SELECT id, pg_notify('{progress.STARTABLE_CHANNEL}', id::text) FROM given
"""
)


def hand_over(connection: Connection, key: str) -> TaskId | None:
    """Give a key that its holder has just freed, in this transaction, to the first that waits for it; return that task.

    Opens it, unless it is paused or starts later, and wakes the dispatcher. Holds the settled task's progress row.
    """
    after = 0
    while (waiting := _lock_next(connection, key, after)) is not None:
        if _give(connection, waiting, key):
            return waiting
        after = waiting  # it was cancelled while its lock was waited for: then it is the turn of the next
    return None


def _lock_next(connection: Connection, key: str, after: int) -> TaskId | None:
    waiting = connection.execute(_LOCK_NEXT, {"key": key, "after": after}).scalar_one_or_none()
    return None if waiting is None else TaskId(waiting)


def _give(connection: Connection, task: TaskId, key: str) -> bool:
    return connection.execute(_GIVE, {"task": task, "key": key}).one_or_none() is not None


# Walks the keys that are waited for, one probe of the index each.
_ORPHANED = text(
    """
WITH RECURSIVE keys (key, place) AS (
    SELECT min(queued_key), 1 FROM tasks WHERE queued_key > :after
    UNION ALL
    SELECT (SELECT min(t.queued_key) FROM tasks AS t WHERE t.queued_key > k.key), k.place + 1
    FROM keys AS k WHERE k.key IS NOT NULL AND k.place < :limit
)
SELECT k.key, NOT EXISTS (SELECT FROM tasks AS h WHERE h.duplicate_key = k.key) AS orphaned
FROM keys AS k WHERE k.key IS NOT NULL ORDER BY k.key
"""
)
# Below PostgreSQL's `deadlock_timeout`, so that never a worker is the one who has to give up.
_PATIENCE = text("SELECT set_config('lock_timeout', '250ms', true)")


def orphaned_keys(connection: Connection, *, after: str, limit: int) -> tuple[list[str], str]:
    """Look at the keys that are waited for, in their order; return those that nobody holds, and where to go on.

    Args:
        connection: Any transaction.
        after: The last key that was looked at; empty to begin.
        limit: The most keys to look at.

    """
    rows = connection.execute(_ORPHANED, {"after": after, "limit": limit}).all()
    return [row.key for row in rows if row.orphaned], rows[-1].key if len(rows) == limit else ""


def adopt(connection: Connection, key: str) -> TaskId | None:
    """Give a key that nobody holds to the first that waits for it; return that task. The transaction holds no lock yet.

    Raises:
        Busy: Somebody is about to take the key; the next look tells who has it.
        IntegrityError: Somebody took it at the same moment.

    """
    connection.execute(_PATIENCE)
    waiting = _lock_next(connection, key, 0)
    return waiting if waiting is not None and _give(connection, waiting, key) else None
