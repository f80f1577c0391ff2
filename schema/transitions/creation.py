"""Storing a new task with its subtasks and edges: one transaction, all or nothing, every state at its default."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import text

from schema.errors import DuplicateInstance
from schema.identity import TaskId
from schema.roundtrip import AnyConnection, Request, fetch_together
from schema.transitions import progress


@dataclass(frozen=True, slots=True)
class NewSubtask:
    """One subtask to store; `upstreams` are series ids, which count from 0 in topological order."""

    series_id: int
    key: str
    kind: str | None
    upstreams: tuple[int, ...]
    queue: str = "default"
    template_key: str | None = None
    name: str | None = None
    description: str | None = None
    arguments: dict[str, Any] | None = None
    from_keys: tuple[str, ...] = ()
    parallel_idx: int = -1
    timeout: float | None = None
    max_attempts: int = 1
    backoff_seconds: float = 1.0
    isolated: bool = False
    allow_failure: bool = False
    has_rollback: bool = False
    prohibit_rollback: bool = False
    lost_is_failure: bool = False


@dataclass(frozen=True, slots=True)
class NewTask:
    """One task to store; `start_at` in the future holds everything back until then.

    `arguments` is stored as JSON text: as `argument_text` where the submitter gave them as a text of that meaning. The numbers
    from `integration_id` to `template_id` are the submitter's own, and 0 where there is none.
    """

    name: str
    account: str
    creator: str
    subtasks: Sequence[NewSubtask]
    arguments: dict[str, Any] = field(default_factory=dict)
    argument_text: str | None = None
    type: str = "MANUAL"
    task_type: str = "inline"
    definition_id: int | None = None
    instance_id: int | None = None
    extra: str = ""
    on_duplicate: str = "reject"
    duplicate_key: str | None = None
    integration_id: int = 0
    user_id: int = 0
    client_id: int = 0
    account_id: int = 0
    template_id: int = 0
    biz_id: str | None = None
    cluster: dict[str, Any] | None = None
    tenant: dict[str, Any] | None = None
    host_id: int | None = None
    priority: int = 5
    concurrency: int | None = None
    prohibit_rollback: bool = False
    callback_url: str | None = None
    deadline_seconds: float | None = None
    start_at: datetime | None = None
    header: dict[str, str] | None = None
    trace_id: str | None = None
    traceparent: str | None = None

    @property
    def argument(self) -> str:
        """The JSON text to store."""
        return json.dumps(self.arguments) if self.argument_text is None else self.argument_text


_MADE = {"subtasks", "arguments", "argument_text", "duplicate_key"}
_COPIED = [one.name for one in fields(NewTask) if one.name not in _MADE]
_COLUMNS = f"{', '.join(_COPIED)}, argument, subtask_count, deadline_at"
_VALUES = (
    f"{', '.join(f'new.{name}' for name in _COPIED)}, new.argument, new.subtask_count,"
    " greatest(now(), new.start_at) + new.deadline_seconds * interval '1 second'"
)
_NEW = "json_populate_record(NULL::tasks, CAST(:row AS json)) AS new"
SUBTASK_IDS = "SELECT id, ARRAY(SELECT nextval('subtask_ids') FROM generate_series(1, subtask_count)) AS ids FROM task"
# Who waits for the key comes first, even in the moment in which nobody holds it.
_HOLD = text(
    f"""
WITH task AS (
    INSERT INTO tasks ({_COLUMNS}, duplicate_key) SELECT {_VALUES}, new.duplicate_key FROM {_NEW}
    WHERE NOT EXISTS (SELECT FROM tasks WHERE queued_key = CAST(:key AS text))
    ON CONFLICT (duplicate_key) WHERE duplicate_key IS NOT NULL DO NOTHING
    RETURNING id, subtask_count
)
{SUBTASK_IDS}
"""
)
_AHEAD = """
SELECT coalesce((SELECT id FROM tasks WHERE duplicate_key = CAST(:key AS text)),
    (SELECT min(id) FROM tasks WHERE queued_key = CAST(:key AS text))) AS id
"""
_QUEUE = text(
    f"""
WITH task AS (
    INSERT INTO tasks ({_COLUMNS}, queued_key, duplicate_of) SELECT {_VALUES}, new.duplicate_key, ahead.id
    FROM {_NEW}, ({_AHEAD}) AS ahead WHERE ahead.id IS NOT NULL
    RETURNING id, subtask_count
)
{SUBTASK_IDS}
"""
)
_HOLDER = text(_AHEAD)
_SUBTASKS = text(
    """
WITH new AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS r (
        id bigint, series_id integer, key text, template_key text, name text, description text, kind text, queue text,
        arguments jsonb, from_keys text[], parallel_idx integer, timeout double precision, max_attempts integer,
        backoff_seconds double precision, has_rollback boolean, prohibit_rollback boolean, lost_is_failure boolean,
        pending_upstreams integer, isolated boolean, allow_failure boolean)
), specs AS (
    INSERT INTO subtask_specs (id, task_id, series_id, key, template_key, name, description, kind, queue, arguments,
        from_keys, parallel_idx, timeout, max_attempts, backoff_seconds, has_rollback, prohibit_rollback, lost_is_failure)
    SELECT id, :task, series_id, key, template_key, name, description, kind, queue, arguments, from_keys, parallel_idx,
        timeout, max_attempts, backoff_seconds, has_rollback, prohibit_rollback, lost_is_failure
    FROM new
)
INSERT INTO subtasks (id, task_id, pending_upstreams, isolated, allow_failure)
SELECT id, :task, pending_upstreams, isolated, allow_failure FROM new
"""
)
_EDGES = text(
    """
INSERT INTO subtask_edges (upstream_id, downstream_id, task_id)
SELECT upstream_id, downstream_id, :task
FROM unnest(CAST(:upstreams AS bigint[]), CAST(:downstreams AS bigint[])) AS r (upstream_id, downstream_id)
"""
)
_PROGRESS = text(
    f"""
WITH woken AS (SELECT pg_notify('{progress.STARTABLE_CHANNEL}', CAST(CAST(:task AS bigint) AS text)))
UPDATE task_progress SET pending = :count, startable = :startable, concurrency = :concurrency,
    open = t.queued_key IS NULL AND coalesce(t.start_at <= now(), true),
    opens_at = CASE WHEN t.queued_key IS NULL AND t.start_at > now() THEN t.start_at END
FROM tasks AS t, woken WHERE t.id = CAST(:task AS bigint) AND task_progress.id = t.id
"""
)
_ROWS_PER_STATEMENT = 10_000

T = TypeVar("T")


def create_task(connection: AnyConnection, task: NewTask) -> TaskId:
    """Store the task in the caller's transaction and return its id; the dispatcher sees it once that has committed.

    With `on_duplicate` "queue" it is stored closed, behind the task that holds the same duplicate key, if there is one.

    Raises:
        DuplicateInstance: An unsettled task holds the duplicate key, and this one is not to wait; `target` is its id.

    """
    task_id, ids = _insert_task(connection, task)
    fetch_together(connection, subtask_requests(task_id, ids, task))
    return task_id


def subtask_requests(task_id: TaskId, ids: Sequence[int], task: NewTask) -> list[Request]:
    """Return what stores the subtasks of a task whose row is there, and opens it."""
    startable = sum(not one.upstreams for one in task.subtasks)
    counters = {"task": task_id, "count": len(ids), "startable": startable, "concurrency": task.concurrency}
    return [
        *(_subtasks_request(task_id, rows) for rows in _batches(zip(ids, task.subtasks, strict=True))),
        *(_edges_request(task_id, pairs) for pairs in _batches(_edges(ids, task.subtasks))),
        Request(_PROGRESS, counters),
    ]


def _subtasks_request(task: TaskId, rows: Sequence[tuple[int, NewSubtask]]) -> Request:
    return Request(_SUBTASKS, {"task": task, "rows": json.dumps([_row(*row) for row in rows])})


def _edges(ids: Sequence[int], subtasks: Sequence[NewSubtask]) -> Iterator[tuple[int, int]]:
    return ((ids[upstream], ids[one.series_id]) for one in subtasks for upstream in one.upstreams)


def _edges_request(task: TaskId, pairs: Sequence[tuple[int, int]]) -> Request:
    upstreams, downstreams = zip(*pairs, strict=True)
    return Request(_EDGES, {"task": task, "upstreams": list(upstreams), "downstreams": list(downstreams)})


def _insert_task(connection: AnyConnection, task: NewTask) -> tuple[TaskId, list[int]]:
    parameters = {"row": _task_row(task), "key": task.duplicate_key}
    ways = [Request(_HOLD, parameters)]
    if task.on_duplicate == "queue":
        ways.append(Request(_QUEUE, parameters))
    # A holder that settled between an insert and the next statement is no longer in the way: then all is tried again.
    while True:
        for way in ways:
            for stored in fetch_together(connection, [way])[0]:
                return TaskId(stored["id"]), sorted(stored["ids"])
        if task.on_duplicate != "queue":
            _refuse_if_held(connection, task)


def _refuse_if_held(connection: AnyConnection, task: NewTask) -> None:
    ahead = holder(connection, task.duplicate_key)
    if ahead is not None:
        raise DuplicateInstance(
            f"task {ahead} of type {task.task_type} for instance {task.instance_id} has not settled;"
            ' wait for it, or submit with "onDuplicate": "return", "queue" or "allow"',
            target=str(ahead),
        )


def holder(connection: AnyConnection, key: str | None) -> TaskId | None:
    """Return the task that holds a duplicate key, or the first that waits for it; None where it is free."""
    [[row]] = fetch_together(connection, [Request(_HOLDER, {"key": key})])
    return None if row["id"] is None else TaskId(row["id"])


def _task_row(task: NewTask) -> str:
    """Return the row as JSON, of which PostgreSQL makes a row with the types of the table."""
    row = {name: getattr(task, name) for name in _COPIED} | {
        "argument": task.argument,
        "subtask_count": len(task.subtasks),
        "duplicate_key": task.duplicate_key,
    }
    return json.dumps(row, default=datetime.isoformat, allow_nan=False)


def _row(subtask_id: int, subtask: NewSubtask) -> dict[str, Any]:
    return {
        "id": subtask_id,
        "series_id": subtask.series_id,
        "key": subtask.key,
        "template_key": subtask.template_key,
        "name": subtask.name,
        "description": subtask.description,
        "kind": subtask.kind,
        "queue": subtask.queue,
        "arguments": subtask.arguments or None,
        "from_keys": list(subtask.from_keys) or None,
        "parallel_idx": subtask.parallel_idx,
        "timeout": subtask.timeout,
        "max_attempts": subtask.max_attempts,
        "backoff_seconds": subtask.backoff_seconds,
        "has_rollback": subtask.has_rollback,
        "prohibit_rollback": subtask.prohibit_rollback,
        "lost_is_failure": subtask.lost_is_failure,
        "pending_upstreams": len(subtask.upstreams),
        "isolated": subtask.isolated,
        "allow_failure": subtask.allow_failure,
    }


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _ROWS_PER_STATEMENT)):
        yield batch
