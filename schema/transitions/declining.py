"""Declining: what a process was brought and has no handler for goes back to PENDING, uncharged, for another worker.

So it is in every deployment that adds a kind, while workers of both versions take from one queue. It is offered again after
a second; after longer the longer its task is there, so that what no worker has does not keep the whole queue busy.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId
from schema.transitions import claims, progress, settlement

# After a second, and a second more for each minute that the task is old.
_DECLINE = text(
    f"""
WITH before AS (
    SELECT s.id, s.state = 'RUNNING' AS claimed, false AS begun FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id
    WHERE s.id = ANY (CAST(:ids AS bigint[])) AND s.task_id = :task AND d.kind <> ALL (CAST(:kinds AS text[]))
        AND ((s.state = 'READY' AND s.carrier = :carrier)
            OR (s.state = 'RUNNING' AND s.process = :process AND s.claim = :claim))
), declined AS (
    UPDATE subtasks AS s
    SET {claims.GOES_BACK}, declined = true,
        scheduled_at = now() + interval '1 second' * (
            SELECT least(10, 1 + extract(epoch FROM now() - to_timestamp(t.created_at / 1000.0))::float8 / 60) FROM tasks AS t WHERE t.id = :task
        )
    FROM before AS b WHERE s.id = b.id
    RETURNING s.id, b.claimed
), counted AS (
    SELECT count(*)::int AS n, (count(*) FILTER (WHERE d.claimed))::int AS claimed FROM declined AS d
), moved AS (
    UPDATE task_progress SET pending = pending + n, running = running - claimed, ready = ready - (n - claimed),
        change_number = change_number + 1
    FROM counted WHERE id = :task AND n > 0
)
SELECT id FROM declined
"""
)


def decline(
    connection: Connection,
    task: TaskId,
    ids: Sequence[SubtaskId],
    kinds: Collection[str],
    *,
    carrier: int,
    claim: int,
    process: int,
) -> frozenset[SubtaskId]:
    """Return to PENDING what is of none of these kinds, and let it be offered again a moment later.

    Covers what the claim took of `ids` and what of them is released and not yet claimed. What the unit would have carried
    after it is handed to the dispatcher. The transaction must hold the task's progress row.

    Args:
        connection: The transaction.
        task: Whose.
        ids: All that is left of the unit.
        kinds: What the process has handlers for.
        carrier: The carrier number of the unit.
        claim: The claim that took some of them.
        process: Who holds it.

    Returns:
        The ids that went back.

    """
    before = progress.read(connection, task)
    parameters = {"ids": list(ids), "task": task, "kinds": sorted(kinds)}
    fence = {"carrier": carrier, "claim": claim, "process": process}
    declined = frozenset(SubtaskId(one) for one in connection.execute(_DECLINE, {**parameters, **fence}).scalars())
    if declined:
        claims.drop_followers(connection, task, carrier)
        settlement.conclude(connection, before=before, after=progress.read(connection, task))
        progress.wake_dispatcher(connection, task)  # it sleeps until what is due next
    return declined
