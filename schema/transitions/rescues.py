"""Bringing back what was lost: claims whose process is dead, released subtasks whose message is gone.

A wrong guess here costs a second message at most: whoever really holds a claim that was rescued finds his claim number
gone and drops his result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from random import random

from sqlalchemy import Connection, RowMapping, text

from schema.backoff import backoff_delay
from schema.identity import SubtaskId, TaskId
from schema.states import SubtaskState
from schema.transitions import claims, logs, progress, records

LOST_STARTS = 3


@dataclass(frozen=True, slots=True)
class LostClaim:
    """A claim that nobody alive holds."""

    task: TaskId
    claim: int
    process: int


_LOST_CLAIMS = text(
    """
SELECT DISTINCT task_id AS task, claim, process FROM subtasks
WHERE state IN ('RUNNING', 'CANCELING')
    AND started_at < now() - :silence * interval '1 second'
    AND pg_postmaster_start_time() < now() - :silence * interval '1 second'
    AND claim NOT IN (
        SELECT unnest(claims) FROM workers
        WHERE stopped_at IS NULL AND beat_at > now() - :silence * interval '1 second'
    )
LIMIT :limit
"""
)


def find_lost_claims(connection: Connection, *, silence_seconds: float, limit: int) -> list[LostClaim]:
    """Return claims older than the silence that no worker has listed within it."""
    parameters = {"silence": silence_seconds, "limit": limit}
    return [LostClaim(**row) for row in connection.execute(_LOST_CLAIMS, parameters).mappings()]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the parent of a dead process saw: the subtask that was running, if any, and whether it had overrun.

    `final_timeouts` are the kinds of which a timeout is not worth another attempt.
    """

    begun: SubtaskId | None
    timed_out: bool = False
    final_timeouts: frozenset[str] = frozenset()


_HELD = text(
    """
SELECT s.id, s.state, s.carrier, s.started_at, greatest(now(), s.started_at) AS now, s.executor, s.failures,
    d.kind, d.max_attempts, d.backoff_seconds, d.timeout,
    d.lost_is_failure, d.lost_is_failure OR s.starts >= greatest(d.max_attempts, :cap) AS is_last
FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id
WHERE s.task_id = :task AND s.claim = :claim AND s.process = :process AND s.state IN ('RUNNING', 'CANCELING')
ORDER BY s.id
"""
)
_UNIT = text("SELECT id FROM subtasks WHERE task_id = :task AND state = 'READY' AND carrier = :carrier ORDER BY id")
_ISOLATE = text("UPDATE subtasks SET isolated = true WHERE id = ANY (CAST(:ids AS bigint[]))")


def rescue(connection: Connection, lost: LostClaim, *, seen: Seen | None) -> list[SubtaskId]:
    """Bring back what a dead process held; return the ids.

    The subtask that was running is charged with a start: it runs again, or fails with the reason once it has been lost
    too often. What had not begun goes back uncharged, and so does what had ended without a record, except where it may not
    be done twice. When nobody saw which one was running, all go back uncharged and run isolated, so that the next loss is
    known; but what may not be done twice fails, because it may have run. What goes back and may have run has begun: a
    rollback undoes it. The transaction must be durable and hold no lock yet.
    """
    locked = progress.lock(connection, lost.task)
    parameters = {"task": lost.task, "claim": lost.claim, "process": lost.process, "cap": LOST_STARTS}
    held = connection.execute(_HELD, parameters).mappings().all()
    if not held:
        return []
    carrier = held[0]["carrier"]
    charged = _charged(held, seen)
    returned = [row["id"] for row in held if row not in charged]
    unit = connection.execute(_UNIT, {"task": lost.task, "carrier": carrier}).scalars().all()
    begun = [row["id"] for row in held if row not in charged and _may_have_run(row, seen)]
    fence = {"carrier": carrier, "claim": lost.claim, "process": lost.process}
    claims.hand_back(connection, lost.task, [*returned, *unit], begun=begun, **fence)
    if seen is None:
        connection.execute(_ISOLATE, {"ids": returned})
    if charged:
        outcomes = [_outcome(row, seen) for row in charged]
        logs.append_lines(
            connection, lost.claim, {one.id: f"{one.error_type}: {one.error_message}" for one in outcomes}
        )
        locked = progress.read(connection, locked.id)
        records.record(connection, locked, outcomes, claim=lost.claim, carrier=carrier)
    return [row["id"] for row in held]


def _charged(held: Sequence[RowMapping], seen: Seen | None) -> list[RowMapping]:
    begun = held[0]["id"] if seen is None and len(held) == 1 else seen and seen.begun
    return [
        row
        for row in held
        if row["id"] == begun
        or row["state"] == SubtaskState.CANCELING
        or (row["lost_is_failure"] and _may_have_run(row, seen))
    ]


def _may_have_run(row: RowMapping, seen: Seen | None) -> bool:
    """Tell whether a handler may have taken it up: those of a claim are taken up in the order of their ids."""
    return seen is None or (seen.begun is not None and row["id"] <= seen.begun)


def _outcome(row: RowMapping, seen: Seen | None) -> records.Outcome:
    if seen is not None and seen.timed_out and row["id"] == seen.begun:
        return _overran(row, is_final=row["kind"] in seen.final_timeouts)
    return _lost(row, begun=_may_have_run(row, seen))


def _lost(row: RowMapping, *, begun: bool) -> records.Outcome:
    return records.Outcome(
        id=row["id"],
        verdict="FAILED" if row["is_last"] else "RETRY",
        started_at=row["started_at"],
        finished_at=row["now"],
        error_type="worker_lost",
        error_message=f"the worker process {row['executor']} died while it held this subtask",
        lost=True,
        begun=begun,
    )


def _overran(row: RowMapping, *, is_final: bool) -> records.Outcome:
    again = not is_final and row["failures"] + 1 < row["max_attempts"]
    return records.Outcome(
        id=row["id"],
        verdict="RETRY" if again else "FAILED",
        started_at=row["started_at"],
        finished_at=row["now"],
        delay_seconds=backoff_delay(row["backoff_seconds"], failures=row["failures"] + 1, random=random)
        if again
        else None,
        error_type="cancelled" if row["state"] == SubtaskState.CANCELING else "timeout",
        error_message=f"did not stop {_limit(row)} and was killed",
    )


def _limit(row: RowMapping) -> str:
    if row["state"] == SubtaskState.CANCELING or row["timeout"] is None:
        return "when it was asked to"
    return f"within its timeout of {row['timeout']:g} s"


@dataclass(frozen=True, slots=True)
class LostUnit:
    """Released subtasks whose message will not come."""

    task: TaskId
    carrier: int
    ids: Sequence[SubtaskId]


_LOST_UNITS = text(
    """
SELECT s.task_id AS task, s.carrier, array_agg(s.id ORDER BY s.id) AS ids
FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id
WHERE s.state = 'READY' AND s.carrier IS NOT NULL AND d.queue = :queue AND s.released_at < :horizon
    AND s.carrier NOT IN (
        SELECT unnest(carriers) FROM workers
        WHERE stopped_at IS NULL AND beat_at > now() - :silence * interval '1 second'
    )
GROUP BY s.task_id, s.carrier LIMIT :limit
"""
)
_READY_QUEUES = text(
    """
SELECT DISTINCT d.queue FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id
WHERE s.state = 'READY' AND s.carrier IS NOT NULL AND s.released_at < now() - :age * interval '1 second'
"""
)
_NOW = text("SELECT clock_timestamp()")


def database_time(connection: Connection) -> datetime:
    """Return PostgreSQL's clock."""
    now: datetime = connection.execute(_NOW).scalar_one()
    return now


def queues_with_old_releases(connection: Connection, *, age_seconds: float) -> list[str]:
    """Return the queues in which something was released that long ago and has not been claimed."""
    return list(connection.execute(_READY_QUEUES, {"age": age_seconds}).scalars())


def find_lost_units(
    connection: Connection, queue: str, *, horizon: datetime, silence_seconds: float, limit: int
) -> list[LostUnit]:
    """Return units released to the queue before the horizon that no live worker holds.

    Args:
        connection: Any transaction.
        queue: The queue.
        horizon: All that was published before it has been taken from the queue, and had time to be claimed.
        silence_seconds: How old a beat may be.
        limit: The most units.

    """
    parameters = {"queue": queue, "horizon": horizon, "silence": silence_seconds, "limit": limit}
    return [LostUnit(**row) for row in connection.execute(_LOST_UNITS, parameters).mappings()]


def recall_lost(connection: Connection, unit: LostUnit) -> list[SubtaskId]:
    """Take back a unit whose message is lost, and what its canvas would have carried; return the ids taken back."""
    progress.lock(connection, unit.task)
    return claims.hand_back(connection, unit.task, unit.ids, carrier=unit.carrier, claim=None, process=0)
