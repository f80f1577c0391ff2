"""Tasks that a plain INSERT has put into the published table: found, locked, and given their subtasks or ended.

A row without `subtask_count` is such a task. Whoever takes it holds its progress row, and its own, because whoever inserted it
may still change or delete it; what somebody else holds is passed over, so that any number of servers take rows at once and
none is taken twice. Subtasks are stored as `creation` stores those of a new task. What cannot be started ends
CREATED → RUNNING → FAILED, with the reason.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import psycopg
from sqlalchemy import Connection, text

from schema.errors import Busy, DuplicateInstance
from schema.identity import TaskId
from schema.roundtrip import Request, fetch_together
from schema.transitions import creation, progress
from schema.transitions.creation import NewTask

INSERTED_CHANNEL = "taskserver_inserted"


@dataclass(frozen=True, slots=True)
class InsertedTask:
    """A row as it was inserted. `definition` is the name of the one that `template_id` names, if the account has it.

    `argument` is empty where nothing was given, and None where it is more than may be.
    """

    id: TaskId
    account: str
    creator: str
    template_id: int
    definition: str | None
    argument: str | None
    argument_bytes: int
    instance_id: int | None
    extra: str
    on_duplicate: str
    concurrency: int | None
    callback_url: str | None


_WAITS = "t.subtask_count IS NULL AND t.state = 'CREATED'"
# Walks the accounts that have such rows, one probe of the index each, and takes the head of each one's line.
_INSERTED = text(
    f"""
WITH RECURSIVE accounts (account) AS (
    SELECT min(t.account) FROM tasks AS t WHERE {_WAITS}
    UNION ALL
    SELECT (SELECT min(t.account) FROM tasks AS t WHERE {_WAITS} AND t.account > a.account)
    FROM accounts AS a WHERE a.account IS NOT NULL
)
SELECT w.id FROM accounts AS a CROSS JOIN LATERAL (
    SELECT h.id, h.priority, row_number() OVER (PARTITION BY h.priority ORDER BY h.id) AS turn
    FROM (
        SELECT t.id, t.priority FROM tasks AS t
        WHERE {_WAITS} AND t.account = a.account AND t.id <> ALL (CAST(:but AS bigint[]))
        ORDER BY t.priority DESC, t.id LIMIT :limit
    ) AS h
) AS w
ORDER BY w.priority DESC, w.turn, w.id LIMIT :limit
"""
)
# Below PostgreSQL's `deadlock_timeout`, so that it is the taker who gives way.
_LOCK = text(
    """
SELECT p.id, set_config('lock_timeout', '250ms', true) FROM task_progress AS p
WHERE p.id = ANY (CAST(:tasks AS bigint[])) ORDER BY p.id FOR UPDATE SKIP LOCKED
"""
)
_ROWS = text(
    f"""
SELECT t.id, t.account, t.creator, t.template_id, f.name AS definition, octet_length(t.argument) AS argument_bytes,
    CASE WHEN octet_length(t.argument) <= :most THEN t.argument END AS argument, t.instance_id, t.extra, t.on_duplicate,
    t.concurrency, t.callback_url
FROM tasks AS t LEFT JOIN task_definitions AS f ON f.id = t.template_id AND f.account = t.account
WHERE t.id = ANY (CAST(:tasks AS bigint[])) AND {_WAITS}
ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
"""
)


def inserted_tasks(connection: Connection, *, limit: int, but: Collection[TaskId] = ()) -> list[TaskId]:
    """Return tasks that were inserted by SQL and have no subtasks yet: by priority, turns between accounts, and age."""
    parameters = {"limit": limit, "but": sorted(but)}
    return [TaskId(task) for task in connection.execute(_INSERTED, parameters).scalars()]


def lock_inserted(connection: Connection, tasks: Sequence[TaskId], *, argument_bytes: int) -> list[InsertedTask]:
    """Lock those of the tasks that nobody else holds and that still wait; return them as they stand, in that order.

    The transaction holds no lock yet, and from here on waits for others a short while only, and then fails with `Busy`.

    Args:
        connection: A transaction of its own.
        tasks: Which.
        argument_bytes: The most bytes of an argument to read.

    """
    locked = list(connection.execute(_LOCK, {"tasks": list(tasks)}).scalars())
    if not locked:
        return []
    rows = connection.execute(_ROWS, {"tasks": locked, "most": argument_bytes}).mappings()
    found = {row["id"]: InsertedTask(**row) for row in rows}
    return [found[task] for task in tasks if task in found]


_EXPAND = text(
    f"""
WITH task AS (
    UPDATE tasks AS t SET subtask_count = :count, argument = coalesce(CAST(:argument AS text), t.argument),
        inserted_digest = CASE WHEN CAST(:argument AS text) IS NOT NULL THEN sha256(convert_to(t.argument, 'UTF8')) END,
        task_type = :task_type, definition_id = :definition_id, concurrency = :concurrency, on_duplicate = :on_duplicate,
        duplicate_key = CASE WHEN CAST(:ahead AS bigint) IS NULL THEN CAST(:key AS text) END,
        queued_key = CASE WHEN CAST(:ahead AS bigint) IS NOT NULL THEN CAST(:key AS text) END, duplicate_of = :ahead,
        deadline_at = greatest(h.created_at, t.start_at) + t.deadline_seconds * interval '1 second'
    FROM sync_history AS h
    WHERE t.id = :task AND h.task_id = t.id AND {_WAITS}
    RETURNING t.id, t.subtask_count
), history AS (
    UPDATE sync_history SET task_type = :task_type, instance_id = :instance_id, extra = :extra
    WHERE task_id = :task AND (task_type, instance_id, extra) IS DISTINCT FROM (:task_type, CAST(:instance_id AS bigint), :extra)
)
{creation.SUBTASK_IDS}
"""
)


@dataclass(frozen=True, slots=True)
class Expansion:
    """What becomes of a locked row; `ahead` is the task that it waits for, where it is to wait for its instance."""

    task: TaskId
    new: NewTask
    ahead: TaskId | None = None


def find_ahead(connection: Connection, new: NewTask) -> TaskId | None:
    """Return the task that holds the instance, where this one is to wait for that; None where it is free.

    Raises:
        DuplicateInstance: An unsettled task holds the instance, and this one is not to wait.

    """
    ahead = None if new.duplicate_key is None else creation.holder(connection, new.duplicate_key)
    if ahead is not None and new.on_duplicate != "queue":
        raise DuplicateInstance(
            f"task {ahead} of type {new.task_type} for instance {new.instance_id} has not settled: insert the row again once it"
            " has, or with on_duplicate 'queue' or 'allow'",
            target=str(ahead),
        )
    return ahead


def expand_inserted(connection: Connection, expansions: Sequence[Expansion]) -> None:
    """Give tasks their subtasks; the dispatcher sees them once that has committed. Holds their progress rows.

    A row keeps what it has, but for: the argument where there is more to it than was inserted (`argument_text` is None),
    the definition's version, concurrency and what becomes of duplicates.

    Raises:
        Busy: Somebody is taking an instance at this moment; the next look tells who has it.

    """
    requests = [Request(_EXPAND, _parameters(one)) for one in expansions]
    try:
        found = fetch_together(connection, requests)
    except psycopg.errors.UniqueViolation as error:
        raise Busy("another task took the instance first; the next look tells which") from error
    stored = [(one, row["ids"]) for one, rows in zip(expansions, found, strict=True) for row in rows]
    fetch_together(
        connection,
        [request for one, ids in stored for request in creation.subtask_requests(one.task, sorted(ids), one.new)],
    )


def _parameters(expansion: Expansion) -> dict[str, object]:
    new = expansion.new
    return {
        "task": expansion.task,
        "count": len(new.subtasks),
        "argument": None if new.argument_text is not None or not new.arguments else new.argument,
        "task_type": new.task_type,
        "instance_id": new.instance_id,
        "extra": new.extra,
        "definition_id": new.definition_id,
        "concurrency": new.concurrency,
        "on_duplicate": new.on_duplicate,
        "key": new.duplicate_key,
        "ahead": expansion.ahead,
    }


_START = text(
    f"UPDATE tasks AS t SET state = 'RUNNING', started_at = now() WHERE t.id = :task AND {_WAITS} RETURNING t.id"
)
_REFUSE = text(
    """
UPDATE tasks SET state = 'FAILED', finalized_at = now(), subtask_count = 0,
    error = jsonb_build_object('type', CAST(:type AS text), 'message', CAST(:message AS text))
WHERE id = :task AND state = 'RUNNING' AND subtask_count IS NULL
"""
)
_CLOSE = text("UPDATE task_progress SET open = false, change_number = change_number + 1 WHERE id = :task")


def refuse_inserted(connection: Connection, task: TaskId, *, kind: str, message: str) -> bool:
    """End a task that cannot be given subtasks: CREATED → RUNNING → FAILED. Tells whether it still waited for them.

    Args:
        connection: Any transaction; it locks the progress row.
        task: Which.
        kind: The type of its error.
        message: What is wrong with it, and what helps.

    """
    progress.lock(connection, task)
    if connection.execute(_START, {"task": task}).one_or_none() is None:
        return False
    connection.execute(_REFUSE, {"task": task, "type": kind, "message": message})
    connection.execute(_CLOSE, {"task": task})
    progress.announce_settled(connection, task)
    return True
