"""Taking subtasks: READY → RUNNING, and back to PENDING for what was taken or released but not begun.

A claim draws one number from a sequence for all it takes in one statement. Every later write names state and claim
number; zero rows then mean that the claim was lost. Nothing here commits: the caller's transaction does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from schema.carriers import following
from schema.identity import SubtaskId, TaskId
from schema.roundtrip import Request, Row
from schema.states import Operation
from schema.transitions import progress, settlement


@dataclass(frozen=True, slots=True)
class Claimed:
    """A subtask taken by a process: what to run and the right to record it."""

    id: SubtaskId
    claim: int
    operation: str
    attempt: int
    failures: int
    generation: int
    series_id: int
    parallel_idx: int
    key: str
    kind: str
    arguments: dict[str, Any] | None
    from_keys: tuple[str, ...]
    timeout: float | None
    max_attempts: int
    backoff_seconds: float
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a process would take next: what the message names, or the step before. `executor` is its name for people."""

    ids: Sequence[SubtaskId]
    process: int
    executor: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `TAKING`."""
        return {"ids": list(self.ids), "process": self.process, "executor": self.executor}


NOTHING = Wanted((), 0, "")
_MEMBERS = [one.name for one in fields(Claimed) if one.name not in {"id", "from_keys"}]
# What a record has freed and what is asked for change in one statement: `freed (id, n)` tells how many upstreams of each have just
# ended, `ended (n, failed, allowed)` what else that does to the counters; then `touched` are the rows that have changed. The range of
# ids is all there are: a planner that has no statistics yet takes a range for little, and so looks the rows up by their ids.
FEW = "BETWEEN 1 AND 9223372036854775807"
TAKING = f"""
allowed AS (
    SELECT r.id
    FROM unnest(CAST(:ids AS bigint[])) AS asked (id) JOIN subtasks AS r ON r.id = asked.id
        LEFT JOIN freed AS f ON f.id = r.id CROSS JOIN task_progress AS p CROSS JOIN ended AS e
    WHERE p.id = :task AND p.open AND r.task_id = :task AND asked.id {FEW}
        AND (r.state = 'READY' OR (r.state = 'PENDING' AND r.carrier IS NOT NULL AND r.pending_upstreams = f.n))
        AND ((p.failed + e.failed = p.allowed + e.allowed AND p.undoing IS NULL) OR r.operation <> 'EXECUTE')
    ORDER BY r.id
    LIMIT (
        SELECT CASE WHEN p.concurrency IS NOT NULL THEN greatest(0, p.concurrency - p.running - p.canceling + e.n) END
        FROM task_progress AS p, ended AS e WHERE p.id = :task
    )
), number AS MATERIALIZED (
    SELECT nextval('claim_numbers') AS claim, clock_timestamp() AS now
), touched AS (
    UPDATE subtasks AS s
    SET pending_upstreams = s.pending_upstreams - t.n,
        state = CASE WHEN t.taken THEN 'RUNNING' WHEN t.n = s.pending_upstreams AND s.carrier IS NOT NULL THEN 'READY'
            ELSE s.state END,
        released_at = CASE WHEN t.n > 0 AND t.n = s.pending_upstreams AND s.carrier IS NOT NULL THEN now()
            ELSE s.released_at END,
        claim = CASE WHEN t.taken THEN number.claim END, process = CASE WHEN t.taken THEN CAST(:process AS bigint) END,
        executor = CASE WHEN t.taken THEN :executor ELSE s.executor END,
        attempt = s.attempt + t.taken::int, starts = s.starts + t.taken::int,
        started_at = CASE WHEN t.taken THEN number.now ELSE s.started_at END,
        attempted_at = CASE WHEN t.taken THEN coalesce(s.attempted_at, number.now) ELSE s.attempted_at END,
        declined = s.declined AND NOT t.taken
    FROM number, (
        SELECT id, max(n) AS n, bool_or(taken) AS taken
        FROM (SELECT id, n, false AS taken FROM freed UNION ALL SELECT id, 0, true FROM allowed) AS one
        WHERE id {FEW} GROUP BY id
    ) AS t
    WHERE s.id = t.id
    RETURNING s.*, t.taken, t.n > 0 AND s.state IN ('READY', 'RUNNING') AS ready,
        s.state = 'PENDING' AND s.pending_upstreams = 0 AND s.carrier IS NULL AND s.scheduled_at IS NULL AND s.gate IS NULL
            AS startable
), next AS (
    SELECT (count(*) FILTER (WHERE ready))::int AS ready, (count(*) FILTER (WHERE startable))::int AS startable,
        (count(*) FILTER (WHERE taken))::int AS taken
    FROM touched
)
"""
# Of `touched AS t` with its `subtask_specs AS d`. What may not be begun twice is claimed durably, whatever the transaction
# meant to be.
TAKEN = """t.id AS taken, t.claim, t.operation, t.attempt, t.failures, t.generation, t.started_at AS claimed_at,
    d.series_id, d.parallel_idx, d.key, d.kind, d.arguments, d.from_keys, d.timeout, d.max_attempts, d.backoff_seconds,
    CASE WHEN d.lost_is_failure THEN set_config('synchronous_commit', 'on', true) END AS durable"""
_CLAIM = text(
    f"""
WITH ended AS (
    SELECT 0 AS n, 0 AS failed, 0 AS allowed
), freed AS (
    SELECT CAST(0 AS bigint) AS id, 0 AS n WHERE false
), {TAKING}, moved AS (
    UPDATE task_progress AS p
    SET ready = p.ready - n.taken, running = p.running + n.taken, change_number = p.change_number + 1
    FROM next AS n WHERE p.id = :task AND n.taken > 0
)
SELECT {TAKEN} FROM touched AS t JOIN subtask_specs AS d ON d.id = t.id ORDER BY t.id
"""
)


def claim_request(task: TaskId, wanted: Wanted) -> Request:
    """Return the statement that takes what is wanted, READY, and may begin now; all get one claim number.

    It goes into a transaction that holds the task's progress row.
    """
    return Request(_CLAIM, {"task": task, **wanted.parameters})


def claimed(rows: Iterable[Row]) -> list[Claimed]:
    """Return what a claim took, in the order of the ids."""
    return [
        Claimed(
            id=row["taken"],
            from_keys=tuple(row["from_keys"] or ()),
            **{name: row[name] for name in _MEMBERS},
        )
        for row in rows
        if row["taken"] is not None
    ]


# For a subtask `s` that goes back to PENDING, given its row `b (claimed, begun)` of before: an attempt that was claimed is not
# counted. Unless it may have begun, it also takes back `attempted_at` where the claim itself had set it, at one moment with
# `started_at`.
GOES_BACK = """state = 'PENDING', carrier = NULL, claim = NULL, process = NULL, started_at = NULL,
        attempt = s.attempt - b.claimed::int, starts = s.starts - b.claimed::int,
        attempted_at = CASE WHEN b.claimed AND NOT b.begun THEN nullif(s.attempted_at, s.started_at) ELSE s.attempted_at END"""
_RETURN = text(
    f"""
WITH before AS (
    SELECT id, state = 'RUNNING' AS claimed, id = ANY (CAST(:begun AS bigint[])) AS begun FROM subtasks
    WHERE id = ANY (CAST(:ids AS bigint[])) AND task_id = :task
        AND ((state = 'READY' AND carrier = :carrier)
            OR (state = 'RUNNING' AND process = :process AND (:claim = 0 OR claim = :claim)))
), returned AS (
    UPDATE subtasks AS s SET {GOES_BACK}
    FROM before AS b WHERE s.id = b.id
    RETURNING s.id, b.claimed
), counted AS (
    SELECT count(*)::int AS n, (count(*) FILTER (WHERE r.claimed))::int AS claimed FROM returned AS r
), moved AS (
    UPDATE task_progress SET pending = pending + n, startable = startable + n, running = running - claimed,
        ready = ready - (n - claimed), change_number = change_number + 1
    FROM counted WHERE id = :task AND n > 0
)
SELECT id FROM returned
"""
)


def hand_back(
    connection: Connection,
    task: TaskId,
    ids: Sequence[SubtaskId],
    *,
    carrier: int,
    claim: int | None,
    process: int,
    begun: Sequence[SubtaskId] = (),
) -> list[SubtaskId]:
    """Return what this unit holds but has not begun to PENDING, uncharged, and leave what follows to the dispatcher.

    Covers a slice that gives way, a claim refused by a limit, and a claim whose commit was never answered: with
    `claim=None` whatever the process holds of `ids` goes back. Those in `begun` may have run, with an end that nobody
    recorded: they count as begun from then on. It may have been the last that a failing task waited for, and so settle the
    task. The transaction must hold the task's progress row.
    Returns the ids that went back.
    """
    parameters = {"ids": list(ids), "begun": list(begun), "task": task}
    fence = {"carrier": carrier, "claim": claim or 0, "process": process}
    returned = [SubtaskId(one) for one in connection.execute(_RETURN, {**parameters, **fence}).scalars()]
    drop_followers(connection, task, carrier)
    if returned:
        after = progress.read(connection, task)
        settlement.conclude(connection, before=after, after=after)
        progress.wake_dispatcher(connection, task)
    return returned


_DROP = text(
    """
WITH before AS (
    SELECT id, state, pending_upstreams FROM subtasks
    WHERE task_id = :task AND operation = ANY (CAST(:operations AS text[]))
        AND ((state IN ('PENDING', 'READY') AND carrier BETWEEN :first AND :last)
            OR (state = 'PENDING' AND carrier = :own))
), dropped AS (
    UPDATE subtasks AS s SET carrier = NULL, state = 'PENDING' FROM before AS b WHERE s.id = b.id
    RETURNING b.state AS old_state, s.pending_upstreams = 0 AND s.scheduled_at IS NULL AND s.gate IS NULL AS startable
), counted AS (
    SELECT (count(*) FILTER (WHERE old_state = 'READY'))::int AS recalled, (count(*) FILTER (WHERE startable))::int AS n
    FROM dropped
)
UPDATE task_progress SET pending = pending + recalled, ready = ready - recalled, startable = startable + n,
    change_number = change_number + 1
FROM counted WHERE id = :task AND (n > 0 OR recalled > 0)
RETURNING n
"""
)


def drop_followers(connection: Connection, task: TaskId, carrier: int) -> None:
    """Hand to the dispatcher what the unit and its canvas would have carried later. Holds the progress row.

    Of the unit itself that is the rest of a straight run, which waits; what is READY in it may still be claimed.
    """
    first, last = following(carrier)
    _drop(connection, task, first, last, own=carrier, operations=list(Operation))


def recall(connection: Connection, task: TaskId) -> None:
    """Take back every subtask that was released and has not begun, but for what an operator named. Holds the progress row."""
    _drop(connection, task, 0, 2**63 - 1, own=0, operations=[Operation.EXECUTE])


def recall_all(connection: Connection, task: TaskId) -> None:
    """Take back every subtask that was released and has not begun, whoever named it. Holds the progress row."""
    _drop(connection, task, 0, 2**63 - 1, own=0, operations=list(Operation))


def _drop(
    connection: Connection, task: TaskId, first: int, last: int, *, own: int, operations: list[Operation]
) -> None:
    parameters = {"task": task, "first": first, "last": last, "own": own, "operations": operations}
    startable = connection.execute(_DROP, parameters).scalar_one_or_none()
    if startable:
        progress.wake_dispatcher(connection, task)
