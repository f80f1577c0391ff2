"""Releasing: PENDING → READY, with the carrier that will bring each subtask to a worker.

The dispatcher reads what may start and what lies just ahead of it, plans, and marks the plan here; then it commits and
publishes. Also what returns to the dispatcher with time: delays that are due, tasks whose start has come.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId
from schema.transitions import progress

# Found by their ids whatever the statistics say: before the first ANALYZE of a large new task PostgreSQL expects these conditions
# to leave one row, and would compare every row of the task with every one of the plan. It does not look into a CASE.
_RELEASE = text(
    """
WITH plan AS (
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:carriers AS bigint[])) AS p (id, carrier)
), released AS (
    UPDATE subtasks AS s
    SET carrier = p.carrier, state = CASE WHEN s.pending_upstreams = 0 THEN 'READY' ELSE 'PENDING' END,
        released_at = CASE WHEN s.pending_upstreams = 0 THEN now() END
    FROM plan AS p
    WHERE s.id = p.id AND s.id = ANY (CAST(:ids AS bigint[])) AND CASE
        WHEN s.task_id = ANY (CAST(:tasks AS bigint[])) AND s.state = 'PENDING' AND s.carrier IS NULL
            AND s.scheduled_at IS NULL AND s.gate IS NULL THEN true END
    RETURNING s.task_id, s.state
), counted AS (
    SELECT task_id, (count(*) FILTER (WHERE state = 'READY'))::int AS n FROM released GROUP BY task_id
), started AS (
    UPDATE tasks SET state = 'RUNNING', started_at = now(), executor = :executor
    WHERE id IN (SELECT task_id FROM counted) AND state IN ('CREATED', 'RUNNING') AND started_at IS NULL
), moved AS (
    UPDATE task_progress AS p SET pending = p.pending - n, ready = p.ready + n, startable = p.startable - n,
        change_number = p.change_number + 1
    FROM counted WHERE p.id = counted.task_id
)
SELECT now()
"""
)


def release(
    connection: Connection, tasks: Sequence[TaskId], carriers: Sequence[tuple[SubtaskId, int]], *, executor: str
) -> datetime:
    """Give each subtask its carrier; those that may start now become READY. The first release starts a task.

    Holds the progress rows of all the tasks. Returns the time of the release.
    """
    parameters = {
        "ids": [subtask for subtask, _ in carriers],
        "carriers": [carrier for _, carrier in carriers],
        "tasks": list(tasks),
        "executor": executor,
    }
    released_at: datetime = connection.execute(_RELEASE, parameters).scalar_one()
    return released_at


_NUMBERS = text("SELECT nextval('fragment_numbers') FROM generate_series(1, :count)")


def draw_fragment_numbers(connection: Connection, count: int) -> list[int]:
    """Return new fragment numbers, ascending."""
    return sorted(connection.execute(_NUMBERS, {"count": count}).scalars())


_DUE_TASKS = text(
    """
SELECT DISTINCT s.task_id FROM subtasks AS s JOIN task_progress AS p ON p.id = s.task_id
WHERE s.state = 'PENDING' AND s.scheduled_at <= now() AND p.open LIMIT :limit
"""
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
    """Make the task's delayed subtasks whose time has come startable."""
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
SELECT w.id, w.startable
FROM accounts AS a CROSS JOIN LATERAL (
    SELECT h.id, h.priority, h.startable, row_number() OVER (PARTITION BY h.priority ORDER BY h.id) AS turn
    FROM (
        SELECT p.id, p.priority, p.startable FROM task_progress AS p
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
) -> dict[TaskId, int]:
    """Return tasks in which something may be released: by priority, then by turns between accounts, then by age.

    Args:
        connection: Any transaction.
        limit: The most tasks.
        full_queues: Tasks with work for these queues alone are left out.
        but: Tasks that have been looked at already.

    Returns:
        How many subtasks may start, by task, in that order.

    """
    parameters = {"limit": limit, "full": sorted(full_queues), "but": sorted(but)}
    return {TaskId(task): startable for task, startable in connection.execute(_CANDIDATES, parameters)}


_NEXT_TIME = text(
    """
SELECT extract(epoch FROM least(
    (
        SELECT s.scheduled_at FROM subtasks AS s JOIN task_progress AS p ON p.id = s.task_id
        WHERE s.state = 'PENDING' AND s.scheduled_at IS NOT NULL AND p.open ORDER BY s.scheduled_at LIMIT 1
    ),
    (SELECT min(opens_at) FROM task_progress WHERE opens_at IS NOT NULL)
) - now())
"""
)


def seconds_to_next_delay(connection: Connection) -> float | None:
    """Return how long until the next delayed subtask or task may start; None when none is delayed."""
    seconds = connection.execute(_NEXT_TIME).scalar_one()
    return None if seconds is None else max(0.0, float(seconds))
