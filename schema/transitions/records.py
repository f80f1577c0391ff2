"""Recording how attempts ended: RUNNING → SUCCESSFUL | FAILED | PENDING (retry at T), CANCELING → FAILED.

One transaction writes the state, the attempt, the result, what the end makes startable, the counters, and, when it was
the last, the task's own end. Fan-in is an atomic decrement on the downstream's row, never a count of the unfinished.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId
from schema.roundtrip import Request, Row
from schema.transitions import claims, progress, settlement
from schema.transitions.progress import Progress

Verdict = Literal["SUCCESSFUL", "FAILED", "RETRY"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, judged before the database is touched.

    Texts hold no NUL. `delay_seconds` goes with RETRY. `lost` says that nobody saw the end, because the worker died: it
    is recorded as such and does not count as a failure of the handler.
    """

    id: SubtaskId
    verdict: Verdict
    started_at: datetime
    finished_at: datetime
    result: Any = None
    delay_seconds: float | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_line: int | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a record changed: the ids that were still held, and the task's counters afterwards."""

    ids: frozenset[SubtaskId]
    progress: Progress
    clean: bool


_RECORD = text(
    f"""
WITH outcome AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:outcomes AS jsonb)) AS o (
        id bigint, verdict text, started_at timestamptz, finished_at timestamptz, result jsonb,
        delay_seconds float8, error_type text, error_message text, error_line int,
        lost boolean)
), before AS (
    SELECT s.id, s.state AS old_state, CASE
            WHEN s.state = 'CANCELING' THEN 'FAILED' WHEN o.verdict = 'RETRY' THEN 'PENDING' ELSE o.verdict
        END AS new_state
    FROM outcome AS o JOIN subtasks AS s ON s.id = o.id
    WHERE s.task_id = :task AND s.claim = :claim AND s.state IN ('RUNNING', 'CANCELING')
), done AS (
    UPDATE subtasks AS s
    SET state = b.new_state, claim = NULL, process = NULL, carrier = NULL,
        operation = CASE WHEN b.old_state = 'CANCELING' THEN 'CANCEL' ELSE s.operation END,
        failures = s.failures + (b.new_state <> 'SUCCESSFUL' AND NOT o.lost)::int,
        finalized_at = CASE WHEN b.new_state <> 'PENDING' THEN o.finished_at END,
        scheduled_at = CASE WHEN b.new_state = 'PENDING' AND o.delay_seconds > 0
            THEN now() + o.delay_seconds * interval '1 second' END
    FROM before AS b JOIN outcome AS o USING (id)
    WHERE s.id = b.id
    RETURNING s.id, b.old_state, b.new_state, s.scheduled_at, s.operation, s.attempt, s.executor,
        s.started_at AS claimed_at, s.allow_failure
), attempts AS (
    INSERT INTO subtask_attempts (subtask_id, claim, task_id, attempt, operation, outcome, executor,
        claimed_at, started_at,        finished_at, error_type, error_message, error_line)
    SELECT d.id, :claim, :task, d.attempt, d.operation, CASE
            WHEN d.old_state = 'CANCELING' THEN 'CANCELED' WHEN o.lost THEN 'LOST' WHEN o.verdict = 'RETRY' THEN 'FAILED' ELSE o.verdict
        END, d.executor, d.claimed_at, o.started_at, o.finished_at, o.error_type, o.error_message, o.error_line
    FROM done AS d JOIN outcome AS o USING (id)
), results AS (
    INSERT INTO subtask_results (subtask_id, task_id, result)
    SELECT d.id, :task, o.result FROM done AS d JOIN outcome AS o USING (id)
    WHERE d.new_state = 'SUCCESSFUL' AND o.result IS NOT NULL
    ON CONFLICT (subtask_id) DO UPDATE SET result = excluded.result
), fit AS (
    SELECT id FROM done WHERE new_state = 'SUCCESSFUL' OR (new_state = 'FAILED' AND allow_failure)
), freed AS (
    SELECT e.downstream_id AS id, count(*)::int AS n
    FROM subtask_edges AS e JOIN fit AS d ON d.id = e.upstream_id GROUP BY e.downstream_id
), released AS (
    UPDATE subtasks AS s
    SET pending_upstreams = s.pending_upstreams - f.n,
        state = CASE WHEN s.pending_upstreams = f.n AND s.carrier IS NOT NULL THEN 'READY' ELSE s.state END,
        released_at = CASE WHEN s.pending_upstreams = f.n AND s.carrier IS NOT NULL THEN now() ELSE s.released_at END
    FROM freed AS f WHERE s.id = f.id
    RETURNING s.state, s.pending_upstreams = 0 AND s.state = 'PENDING' AND s.carrier IS NULL
        AND s.scheduled_at IS NULL AND s.gate IS NULL AS startable
), ended AS (
    SELECT count(*)::int AS n, (count(*) FILTER (WHERE old_state = 'RUNNING'))::int AS ran,
        (count(*) FILTER (WHERE new_state = 'SUCCESSFUL'))::int AS successful,
        (count(*) FILTER (WHERE new_state = 'FAILED'))::int AS failed,
        (count(*) FILTER (WHERE new_state = 'FAILED' AND allow_failure))::int AS allowed,
        (count(*) FILTER (WHERE new_state = 'PENDING'))::int AS pending,
        (count(*) FILTER (WHERE new_state = 'PENDING' AND scheduled_at IS NULL))::int AS startable,
        array_agg(id) AS ids
    FROM done
), next AS (
    SELECT (count(*) FILTER (WHERE state = 'READY'))::int AS ready, (count(*) FILTER (WHERE startable))::int AS startable
    FROM released
), moved AS (
    UPDATE task_progress AS p
    SET running = p.running - e.ran, canceling = p.canceling - (e.n - e.ran), successful = p.successful + e.successful,
        failed = p.failed + e.failed, allowed = p.allowed + e.allowed, pending = p.pending + e.pending - n.ready,
        ready = p.ready + n.ready, startable = p.startable + e.startable + n.startable, change_number = p.change_number + 1
    FROM ended AS e, next AS n WHERE p.id = :task AND e.n > 0
    RETURNING {", ".join("p." + name for name in progress.COLUMNS.split(", "))}, e.ids, e.successful AS ended_well
)
SELECT * FROM moved
"""
)


def record(
    connection: Connection, locked: Progress, outcomes: Sequence[Outcome], *, claim: int, carrier: int
) -> Recorded:
    """Write how the attempts of one claim ended, and what follows from it.

    Outcomes whose claim was lost are dropped; `Recorded.ids` tells which counted. Unless all ended well, what the unit's
    canvas would have carried after it is handed to the dispatcher. The transaction must hold the progress row.

    Args:
        connection: A durable transaction.
        locked: The task's progress row.
        outcomes: At most one for each subtask of the claim.
        claim: The claim number they ran under.
        carrier: The carrier number of the unit that brought them.

    """
    request = record_request(locked.id, outcomes, claim=claim)
    rows = connection.execute(request.statement, request.parameters).mappings().all()
    return follow_up(connection, locked, rows, expected=len(outcomes), carrier=carrier)


def record_request(task: TaskId, outcomes: Sequence[Outcome], *, claim: int) -> Request:
    """Return the statement that writes how the attempts of one claim ended; `follow_up` must come after it."""
    return Request(_RECORD, {"outcomes": _encode(outcomes), "task": task, "claim": claim})


def follow_up(
    connection: Connection, locked: Progress, rows: Sequence[Row], *, expected: int, carrier: int
) -> Recorded:
    """Do what follows from a record, in its transaction.

    Args:
        connection: The transaction.
        locked: The task's progress row before the record.
        rows: What the record answered.
        expected: How many outcomes it was given.
        carrier: The carrier number of the unit that brought them.

    """
    if not rows:
        return Recorded(frozenset(), locked, clean=False)
    row = rows[0]
    after = Progress.of(row)
    clean = row["ended_well"] == expected
    if not clean:
        claims.drop_followers(connection, locked.id, carrier)
    if after.is_failing and not locked.is_failing:
        claims.recall(connection, locked.id)
    if not clean:
        after = progress.read(connection, locked.id)
    settlement.conclude(connection, before=locked, after=after)
    return Recorded(frozenset(row["ids"]), after, clean=clean)


def _encode(outcomes: Sequence[Outcome]) -> str:
    rows = [{name: getattr(outcome, name) for name in Outcome.__slots__} for outcome in outcomes]
    return json.dumps(rows, default=datetime.isoformat, allow_nan=False)
