"""What happens to subtasks, told as Celery tells of tasks, for Flower and whatever else listens to Celery's events.

To Celery a subtask is a task of its own, named after its kind, with the task as its root; that several of them travel in
one message is nobody's business there. An event holds no argument and no text of a result: the whole of it is in the
subtask's detail and log, which have a login and roles of their own. Where the definition hides values, an event holds
nothing that a handler has composed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, text

from schema.identity import SubtaskId, TaskId, subtask_hex
from schema.inputs import REDACTS
from schema.redaction import MASK
from schema.states import Operation, SubtaskState

Event = dict[str, Any]
Send = Callable[[Sequence[Event]], int]  # publishes in one message; returns how many heard it

_MOST_SHOWN = 80
_MOST_ERROR = 500


class Node(NamedTuple):
    """What is told of a subtask; small, because many may wait to be told of."""

    task: TaskId
    task_hex: str
    series_id: int
    key: str
    kind: str
    attempt: int
    operation: str


class Happening(NamedTuple):
    """One thing that happened to a subtask. `what` is `begun`, or how an event's type ends that tells of an end."""

    at: float
    what: str
    node: Node
    seconds: float = 0.0
    shown: str = ""


def shown_value(value: object, *, redacted: bool = False) -> str:
    """Return what is shown of a result: numbers, of all else the size; nothing where the definition hides values."""
    if redacted:
        return MASK
    match value:
        case dict():
            return f"{{{len(value)} members}}"
        case list():
            return f"[{len(value)} elements]"
        case str():
            return f"{len(value)} characters"
    return repr(value)[:_MOST_SHOWN]


def shown_error(error_type: str | None, message: str | None, *, redacted: bool = False) -> str:
    """Return what is shown of an error; its type alone where the definition hides values, which messages may repeat."""
    named = error_type or "failed"
    if redacted:
        return named
    text = message or ""
    return (text if text.startswith(named) else f"{named}: {text}")[:_MOST_ERROR]


def events_of(happening: Happening, *, hostname: str) -> Iterator[Event]:
    """Return the Celery events that tell of it.

    Args:
        happening: What happened.
        hostname: The node name of the worker where it did.

    """
    at, what, node, seconds, shown = happening
    identity: Event = {"uuid": subtask_hex(node.task_hex, node.series_id), "hostname": hostname, "timestamp": at}
    # Also in what tells of an end: nobody may have heard of the begin.
    known = {**identity, "name": node.kind, "root_id": node.task_hex, "args": node.key}
    match what:
        case "begun":
            if node.attempt > 1:  # or what has failed, or been undone, would keep its state while it runs again
                yield {"type": "task-retried", **known}
            operation = "" if node.operation == Operation.EXECUTE else node.operation
            yield {"type": "task-received", **known, "kwargs": operation, "retries": node.attempt - 1}
            yield {"type": "task-started", **identity}
        case "succeeded":
            earlier = {"exception": None, "traceback": None} if node.attempt > 1 else {}
            yield {"type": "task-succeeded", **known, "result": shown, "runtime": seconds, **earlier}
        case "revoked":
            yield {"type": "task-revoked", **known, "terminated": True, "signum": None, "expired": False}
        case _:
            hint = f"The whole of it: taskserver log {node.task} '{node.key}'"
            yield {"type": f"task-{what}", **known, "exception": shown, "traceback": hint, "runtime": seconds}


# Of what runs again by now, whoever runs it tells.
_FATES = text(
    f"""
SELECT t.id AS task, t.task_id AS task_hex, d.series_id, d.key, d.kind, s.state, a.attempt, a.operation, a.outcome,
    a.error_type, a.error_message, {REDACTS} AS redacts, extract(epoch FROM a.finished_at)::float AS at,
    extract(epoch FROM a.finished_at - a.started_at)::float AS seconds,
    (SELECT name FROM workers WHERE host = split_part(a.executor, ':', 1) ORDER BY beat_at DESC LIMIT 1) AS worker
FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id JOIN tasks AS t ON t.id = s.task_id
    JOIN LATERAL (SELECT * FROM subtask_attempts WHERE subtask_id = s.id ORDER BY claim DESC LIMIT 1) AS a ON true
WHERE s.id = ANY (CAST(:ids AS bigint[])) AND s.state NOT IN ('RUNNING', 'CANCELING')
ORDER BY s.id
"""  # noqa: S608 - a constant
)
_ENDS = {"SUCCESSFUL": "succeeded", "CANCELED": "revoked"}


def read_fates(connection: Connection, ids: Sequence[SubtaskId]) -> list[tuple[str | None, Happening]]:
    """Return how the last attempts of these subtasks have ended, each with the name of a worker on the machine it ran on.

    For what somebody else had to record, because the process that ran it died.
    """
    rows = connection.execute(_FATES, {"ids": list(ids)}).mappings()
    return [(row["worker"], _happening(row)) for row in rows]


def _happening(row: RowMapping) -> Happening:
    failed = "failed" if row["state"] == SubtaskState.FAILED else "retried"
    error = shown_error(row["error_type"], row["error_message"], redacted=row["redacts"])
    return Happening(
        at=row["at"],
        what=_ENDS.get(row["outcome"], failed),
        node=Node(**{name: row[name] for name in Node._fields}),
        seconds=row["seconds"],
        shown="" if row["outcome"] in _ENDS else error,
    )
