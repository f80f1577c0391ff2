"""What a worker does between two handlers: record what has ended and take what is next, in as few round trips as it can.

Each is one transaction, made by the caller. The statements are those of `claims` and `records`; here they are only sent
together. What is taken along with a record is decided by what it wrote: after a failure nothing is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from schema.identity import TaskId
from schema.roundtrip import fetch_at_once
from schema.transitions import claims, logs, progress, records
from schema.transitions.claims import NOTHING, Claimed, Wanted
from schema.transitions.logs import LogRow
from schema.transitions.records import Outcome, Recorded


@dataclass(frozen=True, slots=True)
class Ended:
    """Attempts of one claim that have ended, with what is left of their logs."""

    outcomes: Sequence[Outcome]
    log_rows: Sequence[LogRow]
    claim: int
    carrier: int
    backwards: bool = False  # they were steps of a rollback


def take(connection: Connection, task: TaskId, wanted: Wanted) -> list[Claimed]:
    """Lock the task and take what may begin now. The commit need not be durable: a lost claim only runs again."""
    lock = progress.lock_request(task, durable=False)
    locked, taken = fetch_at_once(connection, [lock, claims.claim_request(task, wanted)])
    progress.locked(task, locked)
    return claims.claimed(taken)


def record(connection: Connection, task: TaskId, ended: Ended) -> Recorded:
    """Lock the task and write how the attempts ended."""
    return record_and_take(connection, task, ended, None)[0]


def record_and_take(
    connection: Connection, task: TaskId, ended: Ended, wanted: Wanted | None
) -> tuple[Recorded, list[Claimed]]:
    """Lock the task, write how the attempts ended, and take what is next. The logs go before: they need the claim."""
    requests = [progress.lock_request(task)]
    if ended.log_rows:
        requests.append(logs.write_request(ended.log_rows))
    place = len(requests)
    request = records.record_request(
        task, ended.outcomes, claim=ended.claim, backwards=ended.backwards, wanted=wanted or NOTHING
    )
    requests.append(request)
    if wanted is not None and ended.backwards:
        requests.append(claims.claim_request(task, wanted))
    answers = fetch_at_once(connection, requests)
    recorded = records.follow_up(
        connection,
        progress.locked(task, answers[0]),
        answers[place],
        expected=len(ended.outcomes),
        carrier=ended.carrier,
    )
    records.supplement(connection, recorded, ended.outcomes, claim=ended.claim)
    return recorded, claims.claimed(answers[-1]) if wanted is not None else []
