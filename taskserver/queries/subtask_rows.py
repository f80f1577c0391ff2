"""The columns that every view of a subtask needs, and how they become its view.

They travel as one JSON array per subtask, so that a task's detail is one statement on one snapshot however many subtasks it
has. Times are therefore ISO texts here.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from sqlalchemy import RowMapping

from schema.identity import subtask_hex
from schema.states import ENDED_SUBTASK_STATES, Operation, SubtaskState, TaskState
from taskserver.projection import time_of_epoch, wire_time
from taskserver.queries.task_arguments import TaskArguments
from taskserver.views.subtasks import Failure
from taskserver.wait_reasons import TaskFacts, wait_reason

_STATES: Mapping[str, SubtaskState] = {one.value: one for one in SubtaskState}
_OPERATIONS: Mapping[str, Operation] = {one.value: one for one in Operation}
_MILLISECONDS = 3  # digits
_OFFSET_LENGTH = len("+00:00")


class SubtaskRow(NamedTuple):
    """One subtask; the names of the fields are the names of the columns in `SUBTASK_COLUMNS`."""

    id: int
    series_id: int
    key: str
    name: str | None
    description: str | None
    kind: str | None
    queue: str
    timeout: float | None
    max_attempts: int
    parallel_idx: int
    prohibit_rollback: bool
    state: str
    operation: str
    gate: str | None
    allow_failure: bool
    attempt: int
    executor: str | None
    scheduled_at: str | None
    declined: bool
    attempted_at: str | None
    finalized_at: str | None
    error_type: str | None
    error_message: str | None
    error_line: int | None
    result: Any

    @property
    def satisfies_downstreams(self) -> bool:
        """Tell whether nobody waits for it any more."""
        return self.state == SubtaskState.SUCCESSFUL or (self.state == SubtaskState.FAILED and self.allow_failure)

    @property
    def is_to_be_undone(self) -> bool:
        """Tell whether, in a rollback, what comes before it must wait for it."""
        return self.state != SubtaskState.PENDING or (self.operation == Operation.ROLLBACK and self.gate != "undone")


JSON_ARRAY = f"json_build_array({', '.join('c.' + name for name in SubtaskRow._fields)})"
SUBTASK_COLUMNS = """d.id, d.series_id, d.key, d.name, d.description, d.kind, d.queue, d.timeout, d.max_attempts,
        d.parallel_idx, d.prohibit_rollback, s.state, s.operation, s.gate, s.allow_failure, s.attempt,
        s.executor, s.scheduled_at, s.declined, s.attempted_at, s.finalized_at, e.error_type, e.error_message, e.error_line"""
SUBTASK_JOINS = """JOIN subtasks AS s ON s.id = d.id
        LEFT JOIN subtask_results AS r ON r.subtask_id = d.id
        LEFT JOIN LATERAL (
            SELECT a.error_type, a.error_message, a.error_line FROM subtask_attempts AS a
            WHERE a.subtask_id = d.id AND s.state = 'FAILED' ORDER BY a.claim DESC LIMIT 1
        ) AS e ON true"""
SUBTASK_TABLES = f"subtask_specs AS d {SUBTASK_JOINS}"
# Of many workers most tell the same queues and kinds: each such pair travels once.
TASK_FACTS = """t.task_id, t.created_at, t.state, t.queued_key IS NOT NULL AS queued, (
        SELECT h.id FROM tasks AS h WHERE h.duplicate_key = t.queued_key
    ) AS holder, p.open, p.opens_at, p.failed, p.allowed, p.concurrency,
    p.ready, p.running, p.canceling, p.stopping, p.undoing, (
        SELECT json_agg(json_build_array(w.queues, w.kinds)) FROM (
            SELECT DISTINCT queues, kinds FROM workers
            WHERE stopped_at IS NULL AND beat_at > now() - :silence * interval '1 second'
        ) AS w
    ) AS live_workers"""


def task_facts(row: RowMapping) -> TaskFacts:
    """Return what a row with `TASK_FACTS` says about its subtasks' waiting."""
    taken = row["ready"] + row["running"] + row["canceling"]
    return TaskFacts(
        state=TaskState(row["state"]),
        open=row["open"],
        opens_at=row["opens_at"],
        failing=row["failed"] > row["allowed"],
        stopping=row["stopping"],
        undoing=row["undoing"] is not None,
        full=row["concurrency"] is not None and taken >= row["concurrency"],
        concurrency=row["concurrency"],
        queued=row["queued"],
        holder=row["holder"],
        live_kinds=_live_kinds(row["live_workers"] or ()),
    )


def _live_kinds(workers: Iterable[tuple[list[str], list[str] | None]]) -> dict[str, frozenset[str] | None]:
    """Return what the workers can run, by queue; None where one of them has not said."""
    live: dict[str, frozenset[str] | None] = {}
    for queues, kinds in workers:
        for queue in queues:
            others = live.get(queue, frozenset())
            live[queue] = None if others is None or kinds is None else others.union(kinds)
    return live


class SubtaskMembers:
    """Turns subtask rows of one task into the members of their views."""

    def __init__(self, row: RowMapping, arguments: TaskArguments) -> None:
        self._arguments = arguments
        self._hex: str = row["task_id"]
        self._facts = task_facts(row)
        self._create_time = wire_time(time_of_epoch(row["created_at"]))

    def of(
        self, subtask: SubtaskRow, *, upstreams: list[int], downstreams: list[int], holders: Sequence[int]
    ) -> dict[str, Any]:
        """Return the members; `holders` are the neighbours that it still waits for, as `wait_reason` has them."""
        ended = subtask.state in ENDED_SUBTASK_STATES
        return {
            "id": subtask.id,
            "name": subtask.name or subtask.key,
            "description": subtask.key if subtask.description is None else subtask.description,
            "status": _STATES[subtask.state],
            "operation": _OPERATIONS[subtask.operation],
            "series_id": subtask.series_id,
            "key": subtask.key,
            "kind": subtask.kind,
            "celery_id": subtask_hex(self._hex, subtask.series_id),
            "timeout": 0 if subtask.timeout is None else ceil(subtask.timeout),
            "executor": subtask.executor,
            "run_time": max(subtask.attempt, 1),
            "attempt": subtask.attempt,
            "max_attempts": subtask.max_attempts,
            "node_type": "SIGNAL" if subtask.kind is None else "PYTHON_TASK",
            "parallel_idx": subtask.parallel_idx,
            "upstreams": upstreams,
            "downstreams": downstreams,
            "prohibit_rollback": subtask.prohibit_rollback,
            "create_time": self._create_time,
            "start_time": wire_text(subtask.attempted_at),
            "finish_time": wire_text(subtask.finalized_at) if ended else None,
            "wait_reason": wait_reason(self._facts, subtask, holders),
            "error": failure(subtask.error_type, subtask.error_message, subtask.error_line),
            "result": self._arguments.result(subtask.result),
        }


def wire_text(moment: str | None) -> str | None:
    """Return a time that PostgreSQL wrote into JSON as OCP writes it: as `wire_time`, which is slower."""
    if moment is None:
        return None
    seconds, _, rest = moment.partition(".")
    fraction = rest[:-_OFFSET_LENGTH][:_MILLISECONDS].rstrip("0")
    return f"{seconds}.{fraction}{rest[-_OFFSET_LENGTH:]}" if fraction else seconds + rest[-_OFFSET_LENGTH:]


def failure(error_type: str | None, message: str | None, line: int | None) -> Failure | None:
    """Return why an attempt failed, if it did."""
    if error_type is None and message is None:
        return None
    return Failure.unchecked({"type": error_type or "error", "message": message or "", "log_line": line})
