"""Releasing: PENDING → READY, with the carrier that will bring each subtask to a worker.

The dispatcher reads what may start and what lies just ahead of it, plans, and marks the plan here; then it commits and
publishes. Also what returns to the dispatcher with time: delays that are due, tasks whose start has come.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId
from schema.transitions import progress

# Breadth first from what may start, each node once; LIMIT ends the walk early.
_FRONTIER = text(
    """
WITH RECURSIVE startable AS MATERIALIZED (
    SELECT id FROM subtasks
    WHERE task_id = :task AND state = 'PENDING' AND pending_upstreams = 0 AND carrier IS NULL AND scheduled_at IS NULL
        AND gate IS NULL AND (:all OR operation <> 'EXECUTE')
    ORDER BY id LIMIT :limit
), ahead (id) AS (
    SELECT id FROM startable
    UNION
    SELECT e.downstream_id FROM ahead AS a JOIN subtask_edges AS e ON e.upstream_id = a.id
), near AS (SELECT id FROM ahead LIMIT (SELECT count(*) FROM startable) + :ahead)
SELECT s.id, d.queue, d.kind, d.series_id, s.isolated, s.pending_upstreams
FROM near AS n JOIN subtasks AS s ON s.id = n.id JOIN subtask_specs AS d ON d.id = n.id
WHERE s.state = 'PENDING' AND s.carrier IS NULL AND s.scheduled_at IS NULL AND s.gate IS NULL
    AND (:all OR s.operation <> 'EXECUTE')
ORDER BY s.id
"""
)

_EDGES = text(
    """
SELECT upstream_id, downstream_id FROM subtask_edges
WHERE upstream_id = ANY (CAST(:ids AS bigint[])) ORDER BY upstream_id, downstream_id
"""
)


@dataclass(frozen=True, slots=True)
class Startable:
    """A subtask at or just beyond the frontier."""

    id: SubtaskId
    queue: str
    kind: str
    series_id: int
    isolated: bool
    pending_upstreams: int


def load_frontier(
    connection: Connection, task: TaskId, *, only_named: bool, limit: int, ahead: int
) -> tuple[list[Startable], list[tuple[int, int]]]:
    """Return what may start now, up to `limit`, with up to `ahead` subtasks beyond it, and the edges among them.

    Args:
        connection: A transaction that holds the progress row.
        task: Whose.
        only_named: While the task is failing, only what an operator named may start.
        limit: The most startable subtasks to load.
        ahead: The most subtasks beyond those.

    """
    parameters = {"task": task, "all": not only_named, "limit": limit, "ahead": ahead}
    nodes = [Startable(**row) for row in connection.execute(_FRONTIER, parameters).mappings()]
    if len(nodes) < 2:  # noqa: PLR2004 - one node has no edge to another
        return nodes, []
    known = {node.id for node in nodes}
    edges = connection.execute(_EDGES, {"ids": sorted(known)}).all()
    return nodes, [(upstream, downstream) for upstream, downstream in edges if downstream in known]


_RELEASE = text(
    """
WITH plan AS (
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:carriers AS bigint[])) AS p (id, carrier)
), released AS (
    UPDATE subtasks AS s
    SET carrier = p.carrier, state = CASE WHEN s.pending_upstreams = 0 THEN 'READY' ELSE 'PENDING' END,
        released_at = CASE WHEN s.pending_upstreams = 0 THEN now() END
    FROM plan AS p
    WHERE s.id = p.id AND s.task_id = :task AND s.state = 'PENDING' AND s.carrier IS NULL AND s.scheduled_at IS NULL
        AND s.gate IS NULL
    RETURNING s.state
), counted AS (
    SELECT (count(*) FILTER (WHERE state = 'READY'))::int AS n FROM released
), started AS (
    UPDATE tasks SET state = 'RUNNING', started_at = now(), executor = :executor
    WHERE id = :task AND state = 'CREATED'
)
UPDATE task_progress SET pending = pending - n, ready = ready + n, startable = startable - n,
    change_number = change_number + 1
FROM counted WHERE id = :task
RETURNING now()
"""
)


def release(
    connection: Connection, task: TaskId, carriers: Sequence[tuple[SubtaskId, int]], *, executor: str
) -> datetime:
    """Give each subtask its carrier; those that may start now become READY. The first release starts the task.

    Holds the progress row. Returns the time of the release.
    """
    parameters = {
        "ids": [subtask for subtask, _ in carriers],
        "carriers": [carrier for _, carrier in carriers],
        "task": task,
        "executor": executor,
    }
    released_at: datetime = connection.execute(_RELEASE, parameters).scalar_one()
    return released_at


_NUMBERS = text(
    """
SELECT task_id AS task_hex, ARRAY(SELECT nextval('fragment_numbers') FROM generate_series(1, :count)) AS numbers
FROM tasks WHERE id = :task
"""
)


def draw_fragment_numbers(connection: Connection, task: TaskId, count: int) -> tuple[str, list[int]]:
    """Return the task's hex id, which is the root of its messages, and new fragment numbers, ascending."""
    row = connection.execute(_NUMBERS, {"task": task, "count": count}).one()
    return row.task_hex, sorted(row.numbers)


_DUE_TASKS = text(
    "SELECT DISTINCT task_id FROM subtasks WHERE state = 'PENDING' AND scheduled_at <= now() LIMIT :limit"
)
_DUE = text(
    """
WITH due AS (
    UPDATE subtasks SET scheduled_at = NULL
    WHERE task_id = :task AND state = 'PENDING' AND scheduled_at <= now()
    RETURNING pending_upstreams = 0 AND carrier IS NULL AND gate IS NULL AS startable
)
UPDATE task_progress SET startable = startable + n, change_number = change_number + 1
FROM (SELECT (count(*) FILTER (WHERE startable))::int AS n FROM due) AS counted WHERE id = :task AND n > 0
"""
)


def tasks_with_due_delays(connection: Connection, *, limit: int) -> list[TaskId]:
    """Return tasks in which a delayed subtask may start now."""
    return [TaskId(one) for one in connection.execute(_DUE_TASKS, {"limit": limit}).scalars()]


def end_delays(connection: Connection, task: TaskId) -> None:
    """Make the task's delayed subtasks whose time has come startable; the caller holds the dispatch lock."""
    progress.lock(connection, task)
    connection.execute(_DUE, {"task": task})


# Many rows at once, so none is waited for: what another transaction holds is opened at the next look.
_OPEN_DUE = text(
    """
UPDATE task_progress SET open = true, opens_at = NULL
WHERE id IN (SELECT id FROM task_progress WHERE opens_at <= now() ORDER BY id FOR UPDATE SKIP LOCKED)
RETURNING id
"""
)


def open_due_tasks(connection: Connection) -> list[TaskId]:
    """Open the tasks whose start time has come; a transaction of its own for each caller."""
    return [TaskId(one) for one in connection.execute(_OPEN_DUE).scalars()]


# Walks the accounts that wait, one probe of the index each, and takes the head of each one's line. While queues are full,
# a task whose next subtasks are all for those is passed over, after a bounded look.
_CANDIDATES = text(
    """
WITH RECURSIVE accounts (account) AS (
    SELECT min(account) FROM task_progress WHERE open AND startable > 0
    UNION ALL
    SELECT (SELECT min(p.account) FROM task_progress AS p WHERE p.open AND p.startable > 0 AND p.account > a.account)
    FROM accounts AS a WHERE a.account IS NOT NULL
)
SELECT w.id
FROM accounts AS a CROSS JOIN LATERAL (
    SELECT h.id, h.priority, row_number() OVER (PARTITION BY h.priority ORDER BY h.id) AS turn
    FROM (
        SELECT p.id, p.priority FROM task_progress AS p
        WHERE p.open AND p.startable > 0 AND p.account = a.account AND p.id <> ALL (CAST(:but AS bigint[]))
            AND (p.concurrency IS NULL OR p.running + p.canceling + p.ready < p.concurrency)
            AND (cardinality(CAST(:full AS text[])) = 0 OR EXISTS (
                SELECT FROM (
                    SELECT s.id FROM subtasks AS s
                    WHERE s.task_id = p.id AND s.state = 'PENDING' AND s.pending_upstreams = 0 AND s.carrier IS NULL
                        AND s.scheduled_at IS NULL AND s.gate IS NULL
                    ORDER BY s.id LIMIT 100
                ) AS next JOIN subtask_specs AS d ON d.id = next.id
                WHERE d.queue <> ALL (CAST(:full AS text[]))
            ))
        ORDER BY p.priority DESC, p.id LIMIT :limit
    ) AS h
) AS w
ORDER BY w.priority DESC, w.turn, w.id LIMIT :limit
"""
)


def tasks_with_startable(
    connection: Connection, *, limit: int, full_queues: Collection[str] = (), but: Collection[TaskId] = ()
) -> list[TaskId]:
    """Return tasks in which something may be released: by priority, then by turns between accounts, then by age.

    Args:
        connection: Any transaction.
        limit: The most tasks.
        full_queues: Tasks with work for these queues alone are left out.
        but: Tasks that have been looked at already.

    """
    parameters = {"limit": limit, "full": sorted(full_queues), "but": sorted(but)}
    return [TaskId(one) for one in connection.execute(_CANDIDATES, parameters).scalars()]


_NEXT_TIME = text(
    """
SELECT extract(epoch FROM least(
    (SELECT min(scheduled_at) FROM subtasks WHERE state = 'PENDING' AND scheduled_at IS NOT NULL),
    (SELECT min(opens_at) FROM task_progress WHERE opens_at IS NOT NULL)
) - now())
"""
)


def seconds_to_next_delay(connection: Connection) -> float | None:
    """Return how long until the next delayed subtask or task may start; None when none is delayed."""
    seconds = connection.execute(_NEXT_TIME).scalar_one()
    return None if seconds is None else max(0.0, float(seconds))
