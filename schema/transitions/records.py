"""Recording how attempts ended: RUNNING → SUCCESSFUL | FAILED | PENDING (retry at T, undone), CANCELING → FAILED.

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
from schema.transitions import claims, progress, rollbacks, settlement
from schema.transitions.claims import NOTHING, Wanted
from schema.transitions.progress import Progress

Verdict = Literal["SUCCESSFUL", "FAILED", "RETRY"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, judged before the database is touched.

    Texts hold no NUL. `delay_seconds` goes with RETRY. `lost` says that nobody saw the end, because the worker died: it
    is recorded as such and does not count as a failure of the handler. The `result` of one that failed is kept on the attempt.
    One that is not `begun` ended before its handler was called: there is nothing to undo.
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
    begun: bool = True


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a record changed: the ids that were still held, those of them that were cancelled, and the counters after it."""

    ids: frozenset[SubtaskId]
    progress: Progress
    clean: bool
    canceled: frozenset[SubtaskId] = frozenset()


# A subquery in RETURNING still sees the row as it was.
_RECORD = text(
    f"""
WITH done AS (
    UPDATE subtasks AS s
    SET state = CASE WHEN s.state = 'CANCELING' THEN 'FAILED' WHEN o.verdict = 'RETRY' THEN 'PENDING' ELSE o.verdict END,
        claim = NULL, process = NULL, carrier = NULL,
        operation = CASE WHEN s.state = 'CANCELING' THEN 'CANCEL' ELSE s.operation END,
        failures = s.failures + ((s.state = 'CANCELING' OR o.verdict <> 'SUCCESSFUL') AND NOT o.lost)::int,
        finalized_at = CASE WHEN s.state = 'CANCELING' OR o.verdict <> 'RETRY' THEN o.finished_at END,
        scheduled_at = CASE WHEN s.state = 'RUNNING' AND o.verdict = 'RETRY' AND o.delay_seconds > 0
            THEN now() + o.delay_seconds * interval '1 second' END
    FROM jsonb_to_recordset(CAST(:outcomes AS jsonb)) AS o (
        id bigint, verdict text, started_at timestamptz, finished_at timestamptz, result jsonb,
        delay_seconds float8, error_type text, error_message text, error_line int, lost boolean)
    WHERE s.id = o.id AND o.id {claims.FEW} AND s.task_id = :task
        AND CASE WHEN s.state IN ('RUNNING', 'CANCELING') THEN s.claim END = :claim
    RETURNING s.id, (SELECT state FROM subtasks AS b WHERE b.id = s.id) AS was, s.state, s.scheduled_at, s.attempt,
        CASE WHEN s.operation <> 'CANCEL' THEN s.operation
            ELSE (SELECT operation FROM subtasks AS b WHERE b.id = s.id) END AS operation,
        s.executor, s.started_at AS claimed_at, s.allow_failure, o.verdict, o.lost, o.started_at, o.finished_at, o.result,
        o.error_type, o.error_message, o.error_line
), attempts AS (
    INSERT INTO subtask_attempts (subtask_id, claim, task_id, attempt, operation, outcome, executor,
        claimed_at, started_at, finished_at, error_type, error_message, error_line)
    SELECT id, :claim, :task, attempt, operation, CASE
            WHEN was = 'CANCELING' THEN 'CANCELED' WHEN lost THEN 'LOST' WHEN verdict = 'RETRY' THEN 'FAILED' ELSE verdict
        END, executor, claimed_at, started_at, finished_at, {rollbacks.CANCELED_ERROR}, error_line
    FROM done
), results AS (
    INSERT INTO subtask_results (subtask_id, task_id, result)
    SELECT id, :task, result FROM done WHERE state = 'SUCCESSFUL' AND result IS NOT NULL
    ON CONFLICT (subtask_id) DO UPDATE SET result = excluded.result
), freed AS (
    SELECT e.downstream_id AS id, count(*)::int AS n
    FROM done AS d JOIN subtask_edges AS e ON e.upstream_id = d.id AND e.downstream_id {claims.FEW}
    WHERE d.state = 'SUCCESSFUL' OR (d.state = 'FAILED' AND d.allow_failure) GROUP BY e.downstream_id
), ended AS (
    SELECT count(*)::int AS n, (count(*) FILTER (WHERE was = 'RUNNING'))::int AS ran,
        (count(*) FILTER (WHERE state = 'SUCCESSFUL'))::int AS successful,
        (count(*) FILTER (WHERE state = 'FAILED'))::int AS failed,
        (count(*) FILTER (WHERE state = 'FAILED' AND allow_failure))::int AS allowed,
        (count(*) FILTER (WHERE state = 'PENDING'))::int AS pending,
        (count(*) FILTER (WHERE state = 'PENDING' AND scheduled_at IS NULL))::int AS startable,
        array_agg(id) AS ids, array_agg(id) FILTER (WHERE was = 'CANCELING') AS canceled_ids
    FROM done
), {claims.TAKING}, moved AS (
    UPDATE task_progress AS p
    SET running = p.running - e.ran + n.taken, canceling = p.canceling - (e.n - e.ran),
        successful = p.successful + e.successful, failed = p.failed + e.failed, allowed = p.allowed + e.allowed,
        pending = p.pending + e.pending - n.ready, ready = p.ready + n.ready - n.taken,
        startable = p.startable + e.startable + n.startable, change_number = p.change_number + 1
    FROM ended AS e, next AS n WHERE p.id = :task AND (e.n > 0 OR n.taken > 0)
    RETURNING p.*, e.ids, e.canceled_ids, e.successful AS ended_well
)
SELECT {", ".join("m." + name for name in progress.COLUMNS.split(", "))}, m.ids, m.canceled_ids, m.ended_well, {claims.TAKEN}
FROM moved AS m LEFT JOIN (touched AS t JOIN subtask_specs AS d ON d.id = t.id) ON t.taken
ORDER BY t.id
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
    request = record_request(locked.id, outcomes, claim=claim, backwards=locked.undoing is not None)
    rows = connection.execute(request.statement, request.parameters).mappings().all()
    recorded = follow_up(connection, locked, rows, expected=len(outcomes), carrier=carrier)
    supplement(connection, recorded, outcomes, claim=claim)
    return recorded


def record_request(
    task: TaskId, outcomes: Sequence[Outcome], *, claim: int, backwards: bool, wanted: Wanted = NOTHING
) -> Request:
    """Return the statement that writes how the attempts of one claim ended; `follow_up` must come after it.

    `backwards` tells whether they were steps of a rollback: those of one claim all are, or none. Forwards it also takes what is
    `wanted`, as `claims.claim_request` would next, and answers that like it.
    """
    parameters = {"outcomes": _encode(outcomes), "task": task, "claim": claim}
    if backwards:
        return Request(rollbacks.RECORD, parameters)
    return Request(_RECORD, {**parameters, **wanted.parameters})


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
    if not rows or rows[0]["ids"] is None:
        return Recorded(frozenset(), locked, clean=False)
    row = rows[0]
    after = Progress.of(row)
    clean = row["ended_well"] == expected
    if not clean:
        claims.drop_followers(connection, locked.id, carrier)
    if after.is_failing and not locked.is_failing:
        claims.recall(connection, locked.id)
    opened = row["opened_ids"] if after.undoing is not None else None
    if opened:
        rollbacks.pass_over(connection, locked.id, opened=opened)
    if opened or not clean:
        after = progress.read(connection, locked.id)
    settlement.conclude(connection, before=locked, after=after)
    return Recorded(frozenset(row["ids"]), after, clean=clean, canceled=frozenset(row["canceled_ids"] or ()))


def supplement(connection: Connection, recorded: Recorded, outcomes: Sequence[Outcome], *, claim: int) -> None:
    """Write what few outcomes have, in the record's transaction: every step pays for what its statement could do."""
    counted = [one for one in outcomes if one.id in recorded.ids]
    _keep_results(connection, recorded, counted, claim=claim)
    unbegun = [one.id for one in counted if not one.begun]
    if unbegun:
        connection.execute(_TAKE_BACK, {"ids": unbegun})


# Where the claim itself had set it, at one moment with `started_at`; who had begun under an earlier one has begun.
_TAKE_BACK = text(
    "UPDATE subtasks SET attempted_at = NULL WHERE id = ANY (CAST(:ids AS bigint[])) AND attempted_at = started_at"
)
_KEEP = text(
    """
UPDATE subtask_attempts AS a SET result = o.result
FROM jsonb_to_recordset(CAST(:outcomes AS jsonb)) AS o (id bigint, result jsonb)
WHERE a.subtask_id = o.id AND a.claim = :claim
"""
)


def _keep_results(connection: Connection, recorded: Recorded, outcomes: Sequence[Outcome], *, claim: int) -> None:
    """Keep on their attempts the results that are not the subtask's.

    That is what a handler returned although it had been asked to stop, and what one that failed had been answered.
    """
    kept = [
        one
        for one in outcomes
        if one.result is not None and (one.verdict != "SUCCESSFUL" or one.id in recorded.canceled)
    ]
    if kept:
        connection.execute(_KEEP, {"outcomes": _encode(kept), "claim": claim})


def _encode(outcomes: Sequence[Outcome]) -> str:
    rows = [
        {name: value for name in Outcome.__slots__ if (value := getattr(outcome, name)) is not None}
        for outcome in outcomes
    ]
    return json.dumps(rows, default=datetime.isoformat, allow_nan=False)
