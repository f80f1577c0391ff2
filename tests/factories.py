"""Stored tasks and what the other processes do to them, through the product's own verbs, each in its own transaction."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, RowMapping, text

from schema.carriers import carrier_number
from schema.database import transaction
from schema.identity import SubtaskId, TaskId
from schema.transitions import claims, declining, progress, records, releases, rescues
from schema.transitions.claims import Claimed, Wanted
from schema.transitions.creation import NewSubtask, NewTask, create_task
from schema.transitions.frontiers import Share, load_frontiers
from schema.transitions.progress import Progress
from schema.transitions.records import Outcome, Recorded, Verdict
from schema.transitions.rescues import LostClaim, LostUnit, Seen

Graph = Mapping[str, Sequence[str]]
T = TypeVar("T")

PROCESS = 7
_CLAIMED = [one.name for one in fields(Claimed)]


def new_task(graph: Graph, options: Mapping[str, Mapping[str, Any]] | None = None, **columns: Any) -> NewTask:
    """Describe a task: keys in topological order with their upstreams; `options` are a subtask's other fields."""
    places = {key: place for place, key in enumerate(graph)}
    subtasks = [
        NewSubtask(
            series_id=places[key],
            key=key,
            upstreams=tuple(places[one] for one in upstreams),
            **{"kind": "test.kind", **(options or {}).get(key, {})},
        )
        for key, upstreams in graph.items()
    ]
    return NewTask(**{"name": "test", "account": "0", "creator": "tester", "subtasks": subtasks, **columns})


@dataclass(frozen=True)
class StoredTask:
    """A stored task and the hands that work on it."""

    engine: Engine
    id: TaskId
    ids: Mapping[str, SubtaskId] = field(repr=False)

    @contextmanager
    def locked(self) -> Iterator[tuple[Connection, Progress]]:
        with transaction(self.engine) as connection:
            yield connection, progress.lock(connection, self.id)

    def release(self, *keys: str, carriers: Mapping[str, int] | None = None) -> dict[str, int]:
        """Release the keys, each with a fragment of its own, or with the given carriers; return the carriers."""
        with self.locked() as (connection, _):
            if carriers is None:
                draw = text("SELECT nextval('fragment_numbers')")
                carriers = {key: carrier_number(connection.execute(draw).scalar_one(), 0, 0) for key in keys}
            plan = [(self.ids[key], number) for key, number in carriers.items()]
            releases.release(connection, [self.id], plan, executor="test-server")
        return dict(carriers)

    def claim(self, *keys: str, process: int = PROCESS) -> list[Claimed]:
        ids = [self.ids[key] for key in keys]
        with self.locked() as (connection, locked):
            return claim_within(connection, locked.id, ids, process=process, executor=f"process {process}")

    def begin(self, *keys: str, process: int = PROCESS) -> list[Claimed]:
        """Release and claim."""
        self.release(*keys)
        return self.claim(*keys, process=process)

    def held(self, *keys: str) -> list[Claimed]:
        """Return what runs as the process that claimed it knows it."""
        columns = ", ".join("s.started_at AS claimed_at" if name == "claimed_at" else name for name in _CLAIMED)
        query = (
            f"SELECT {columns} FROM subtasks AS s JOIN subtask_specs AS d USING (id) WHERE id = ANY (:ids) ORDER BY id"
        )
        rows = many(self.engine, query, ids=[self.ids[key] for key in keys])
        return [Claimed(**{**row, "from_keys": tuple(row["from_keys"] or ())}) for row in rows]

    def record(self, claimed: Sequence[Claimed], verdict: Verdict = "SUCCESSFUL", **fields: Any) -> Recorded:
        """Record one verdict for all of a claim; `claim` and `carrier` may be given, else they are the row's own."""
        claim = fields.pop("claim", claimed[0].claim)
        carrier = fields.pop("carrier", None) or self.row(claimed[0].key)["carrier"] or 0
        with self.locked() as (connection, locked):
            outcomes = [outcome(connection, one, verdict, **fields) for one in claimed]
            return records.record(connection, locked, outcomes, claim=claim, carrier=carrier)

    def run(self, *keys: str, verdict: Verdict = "SUCCESSFUL", **fields: Any) -> Recorded:
        """Release, claim and record."""
        return self.record(self.begin(*keys), verdict, **fields)

    def hand_back(
        self, *keys: str, carrier: int = 0, claim: int | None = None, process: int = PROCESS
    ) -> list[SubtaskId]:
        ids = [self.ids[key] for key in keys]
        with self.locked() as (connection, _):
            return claims.hand_back(connection, self.id, ids, carrier=carrier, claim=claim, process=process)

    def decline(
        self, *keys: str, claim: int, carrier: int = 0, kinds: Sequence[str] = (), process: int = PROCESS
    ) -> frozenset[SubtaskId]:
        ids = [self.ids[key] for key in keys]
        with self.locked() as (connection, _):
            return declining.decline(connection, self.id, ids, kinds, carrier=carrier, claim=claim, process=process)

    def rescue(self, claim: int, *, process: int = PROCESS, seen: Seen | None = None) -> list[SubtaskId]:
        with transaction(self.engine) as connection:
            return rescues.rescue(connection, LostClaim(self.id, claim, process), seen=seen)

    def recall_lost(self, carrier: int, *keys: str) -> list[SubtaskId]:
        with transaction(self.engine) as connection:
            return rescues.recall_lost(connection, LostUnit(self.id, carrier, [self.ids[key] for key in keys]))

    def frontier(self, *, only_named: bool = False, limit: int = 1000, ahead: int = 1000) -> list[str]:
        """Return the keys that the dispatcher would be given to plan."""
        names = {subtask: key for key, subtask in self.ids.items()}
        with self.locked() as (connection, _):
            share = Share(self.id, limit, only_named=only_named)
            loaded = load_frontiers(connection, [share], ahead=ahead)
        return [names[node.id] for frontier in loaded for node in frontier.nodes]

    def row(self, key: str) -> RowMapping:
        return one(self.engine, "SELECT * FROM subtasks WHERE id = :id", id=self.ids[key])

    def rows(self) -> dict[str, RowMapping]:
        return {key: self.row(key) for key in self.ids}

    def states(self) -> dict[str, str]:
        query = "SELECT id, state FROM subtasks WHERE task_id = :task"
        states = {row["id"]: row["state"] for row in many(self.engine, query, task=self.id)}
        return {key: states[subtask] for key, subtask in self.ids.items()}

    def progress(self) -> Progress:
        with transaction(self.engine) as connection:
            return progress.read(connection, self.id)

    def column(self, name: str) -> Any:
        return one(self.engine, f"SELECT {name} AS value FROM tasks WHERE id = :id", id=self.id)["value"]

    def attempts(self, key: str) -> list[RowMapping]:
        query = "SELECT * FROM subtask_attempts WHERE subtask_id = :id ORDER BY claim"
        return many(self.engine, query, id=self.ids[key])

    def set(self, key: str, assignments: str) -> None:
        """Change a subtask's row by hand: what a verb of another module, or the passing of time, would have done."""
        execute(self.engine, f"UPDATE subtasks SET {assignments} WHERE id = :id", id=self.ids[key])

    def name(self, key: str) -> None:
        """Let it stand as after an operator's retry, which a subtask that has not failed cannot come to."""
        self.set(key, "operation = 'RETRY'")
        execute(
            self.engine,
            "INSERT INTO operations (task_id, subtask_id, verb, principal, from_state, to_state)"
            " VALUES (:task, :id, 'retry', 'tester', 'FAILED', 'PENDING')",
            task=self.id,
            id=self.ids[key],
        )

    def move(self, key: str, before: str, after: str, assignments: str = "id = id") -> None:
        """Move a subtask between states with its counters, as a verb of another module would."""
        self.set(key, f"state = '{after}', {assignments}")
        execute(
            self.engine,
            f"UPDATE task_progress SET {before.lower()} = {before.lower()} - 1, {after.lower()} = {after.lower()} + 1"
            " WHERE id = :id",
            id=self.id,
        )

    def cancel(self, key: str) -> None:
        """Ask a running subtask to stop."""
        self.move(key, "RUNNING", "CANCELING")


def claim_within(
    connection: Connection, task: TaskId, ids: Sequence[SubtaskId], *, process: int, executor: str
) -> list[Claimed]:
    """Claim in a transaction that holds the task's progress row."""
    request = claims.claim_request(task, Wanted(ids, process, executor))
    return claims.claimed(connection.execute(request.statement, request.parameters).mappings())


def make_task(
    engine: Engine, graph: Graph, options: Mapping[str, Mapping[str, Any]] | None = None, **columns: Any
) -> StoredTask:
    """Store a task of these subtasks and commit."""
    with transaction(engine) as connection:
        task = create_task(connection, new_task(graph, options, **columns))
        rows = connection.execute(text("SELECT key, id FROM subtask_specs WHERE task_id = :task"), {"task": task})
        ids = {key: SubtaskId(subtask) for key, subtask in rows}
    return StoredTask(engine, task, {key: ids[key] for key in graph})


def outcome(connection: Connection, claimed: Claimed, verdict: Verdict = "SUCCESSFUL", **fields: Any) -> Outcome:
    """Return how an attempt ended that ended now, by PostgreSQL's clock."""
    finished_at: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return Outcome(
        **{
            "id": claimed.id,
            "verdict": verdict,
            "started_at": claimed.claimed_at,
            "finished_at": finished_at,
            **({"error_type": "failed", "error_message": f"{claimed.key} failed"} if verdict != "SUCCESSFUL" else {}),
            **fields,
        }
    )


def one(engine: Engine, query: str, **parameters: Any) -> RowMapping:
    with transaction(engine) as connection:
        return connection.execute(text(query), parameters).mappings().one()


def many(engine: Engine, query: str, **parameters: Any) -> list[RowMapping]:
    with transaction(engine) as connection:
        return list(connection.execute(text(query), parameters).mappings())


def execute(engine: Engine, statement: str, **parameters: Any) -> None:
    with transaction(engine) as connection:
        connection.execute(text(statement), parameters)


def together(count: int, work: Callable[[int], T]) -> list[T]:
    """Run the work in that many threads that start at one moment; return the results by number, raise the first error."""
    barrier = threading.Barrier(count, timeout=20)

    def begin(number: int) -> T:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))
