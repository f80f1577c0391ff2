"""What workers tell the server of themselves: their kinds, that they live, and what they hold."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from sqlalchemy import Connection, text

from schema.kinds import KindInfo, OnWorkerLost
from schema.roundtrip import AnyConnection, Request, Row, fetch_together

_NUMBERS = text("SELECT nextval('process_numbers')")


def draw_process_number(connection: Connection) -> int:
    """Return a number that no other worker or pool process ever had."""
    return int(connection.execute(_NUMBERS).scalar_one())


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker's main process knows of its pool: process numbers alive, claims and carriers they hold."""

    processes: Sequence[int]
    claims: Sequence[int]
    carriers: Sequence[int]
    started: int


_REGISTER = text(
    """
INSERT INTO workers (id, name, host, pid, queues, concurrency, code_version, kinds)
VALUES (:id, :name, :host, :pid, CAST(:queues AS text[]), :concurrency, :code_version, CAST(:kinds AS text[]))
"""
)
_BEAT = text(
    """
UPDATE workers SET beat_at = clock_timestamp(), processes = CAST(:processes AS bigint[]),
    claims = CAST(:claims AS bigint[]), carriers = CAST(:carriers AS bigint[]), started = :started, stopped_at = NULL
WHERE id = :id
RETURNING id
"""
)
_STOP = text("UPDATE workers SET stopped_at = clock_timestamp() WHERE id = :id AND stopped_at IS NULL")


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as people see it; `kinds` are those that it can run, None where nobody has said."""

    id: int
    name: str
    host: str
    pid: int
    queues: Sequence[str]
    concurrency: int
    code_version: str
    kinds: Sequence[str] | None = None


def register_worker(connection: Connection, worker: WorkerInfo) -> None:
    """Store a worker that is about to take messages."""
    kinds = None if worker.kinds is None else sorted(worker.kinds)
    connection.execute(_REGISTER, asdict(worker) | {"queues": list(worker.queues), "kinds": kinds})


def beat(connection: Connection, worker: int, beat: Beat) -> bool:
    """Say that the worker lives and what it holds; False when its row is gone and it must register again."""
    parameters = {
        "id": worker,
        "processes": list(beat.processes),
        "claims": list(beat.claims),
        "carriers": list(beat.carriers),
        "started": beat.started,
    }
    return connection.execute(_BEAT, parameters).one_or_none() is not None


def stop_worker(connection: Connection, worker: int) -> None:
    """Say that the worker takes nothing any more."""
    connection.execute(_STOP, {"id": worker})


_KIND = text(
    """
INSERT INTO kinds (name, arguments_schema, result_schema, queue, timeout, max_attempts, backoff_seconds, isolated,
    has_rollback, prohibit_rollback, on_worker_lost, description, code_version)
VALUES (:name, CAST(:arguments_schema AS jsonb), CAST(:result_schema AS jsonb), :queue, :timeout, :max_attempts,
    :backoff_seconds, :isolated, :has_rollback, :prohibit_rollback, :on_worker_lost, :description, :code_version)
ON CONFLICT (name) DO UPDATE SET arguments_schema = excluded.arguments_schema, result_schema = excluded.result_schema,
    queue = excluded.queue, timeout = excluded.timeout, max_attempts = excluded.max_attempts,
    backoff_seconds = excluded.backoff_seconds, isolated = excluded.isolated, has_rollback = excluded.has_rollback,
    prohibit_rollback = excluded.prohibit_rollback, on_worker_lost = excluded.on_worker_lost,
    description = excluded.description, code_version = excluded.code_version, registered_at = now()
"""
)


def register_kinds(connection: Connection, kinds: Sequence[KindInfo], *, code_version: str) -> None:
    """Store what this worker's code can run; the newest registration of a name counts."""
    for kind in sorted(kinds, key=lambda one: one.name):
        connection.execute(
            _KIND,
            {
                "name": kind.name,
                "arguments_schema": json.dumps(kind.arguments_schema),
                "result_schema": None if kind.result_schema is None else json.dumps(kind.result_schema),
                "queue": kind.queue,
                "timeout": kind.timeout,
                "max_attempts": kind.max_attempts,
                "backoff_seconds": kind.backoff_seconds,
                "isolated": kind.isolated,
                "has_rollback": kind.has_rollback,
                "prohibit_rollback": kind.prohibit_rollback,
                "on_worker_lost": kind.on_worker_lost,
                "description": kind.description,
                "code_version": code_version,
            },
        )


_COLUMNS = [one.name for one in fields(KindInfo)]
_KINDS = text(f"SELECT {', '.join(_COLUMNS)} FROM kinds WHERE name = ANY (CAST(:names AS text[])) OR :all")


def load_kinds(connection: AnyConnection, names: Collection[str] | None = None) -> Mapping[str, KindInfo]:
    """Return the named kinds as workers have registered them.

    All of them without names, and when one of the named is missing, so that an error can tell the nearest.
    """
    if names is not None:
        kinds = _ask_for_kinds(connection, sorted(names), everything=False)
        if len(kinds) == len(names):
            return kinds
    return _ask_for_kinds(connection, [], everything=True)


def _ask_for_kinds(connection: AnyConnection, names: list[str], *, everything: bool) -> dict[str, KindInfo]:
    [rows] = fetch_together(connection, [Request(_KINDS, {"names": names, "all": everything})])
    return {row["name"]: _kind(row) for row in rows}


def _kind(row: Row) -> KindInfo:
    result_schema, on_worker_lost = row["result_schema"] or {}, OnWorkerLost(row["on_worker_lost"])
    return KindInfo(**{**row, "result_schema": result_schema, "on_worker_lost": on_worker_lost})


_PACE = text("UPDATE kinds SET typical_seconds = :seconds WHERE name = :kind")
_PACES = text("SELECT name, typical_seconds FROM kinds WHERE typical_seconds IS NOT NULL")


def note_pace(connection: Connection, seconds_by_kind: Mapping[str, float]) -> None:
    """Store how long attempts of these kinds take lately; a hint for the planner."""
    for kind, seconds in sorted(seconds_by_kind.items()):
        connection.execute(_PACE, {"kind": kind, "seconds": seconds})


def typical_seconds(connection: Connection) -> dict[str, float]:
    """Return how long attempts take lately, by kind, where that is known."""
    return {row.name: row.typical_seconds for row in connection.execute(_PACES)}


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a queue's live workers can do: subtasks at once, and units they have started so far."""

    slots: int
    started: int


_CAPACITY = text(
    """
SELECT queue, sum(concurrency)::int AS slots, sum(started)::bigint AS started FROM workers, unnest(queues) AS queue
WHERE stopped_at IS NULL AND beat_at > now() - :silence * interval '1 second'
GROUP BY queue
"""
)


def live_capacity(connection: Connection, *, silence_seconds: float) -> dict[str, Capacity]:
    """Return for each queue what its live workers can do."""
    rows = connection.execute(_CAPACITY, {"silence": silence_seconds})
    return {queue: Capacity(slots, started) for queue, slots, started in rows}
