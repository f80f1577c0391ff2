"""Rollback: what began is undone in reverse order, branches in parallel. SUCCESSFUL | FAILED → PENDING, run backwards.

The fan-in is that of going forward, turned around: each row counts its downstreams that are not undone yet
(`rollback_downstreams`) and waits behind the gate 'downstreams'; the end of the last of them opens it. What is undone stands
PENDING behind the gate 'undone'. `task_progress.undoing` counts what is left; at 0 the task is ROLLED_BACK.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from schema.errors import RollbackProhibited
from schema.identity import SubtaskId, TaskId
from schema.states import Operation, TaskState
from schema.transitions import orders, progress, reopening, settlement
from schema.transitions.orders import Order, Subject
from schema.transitions.progress import Progress

# The task's subtasks by the range of their ids, which ascend with the series: `subtasks` has no index by task alone.
_BEGUN = """
s.task_id = :task AND (s.state IN ('SUCCESSFUL', 'FAILED') OR s.attempted_at IS NOT NULL)
    AND s.id BETWEEN (SELECT id FROM subtask_specs WHERE task_id = :task ORDER BY series_id LIMIT 1)
    AND (SELECT id FROM subtask_specs WHERE task_id = :task ORDER BY series_id DESC LIMIT 1)
"""
_HANDLED = "d.has_rollback AND s.attempted_at IS NOT NULL"
_LOOK = text(
    f"""
SELECT count(s.id) AS begun, count(s.id) FILTER (WHERE {_HANDLED}) AS handled,
    (SELECT prohibit_rollback FROM tasks WHERE id = :task) AS prohibited,
    (array_agg(d.key ORDER BY s.id) FILTER (WHERE d.prohibit_rollback AND s.attempted_at IS NOT NULL))[1] AS key
FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id WHERE {_BEGUN}
"""
)
_TURNED = """
    state = 'PENDING', operation = 'ROLLBACK', pending_upstreams = 0, carrier = NULL, scheduled_at = NULL,
    failures = 0, starts = 0, generation = s.generation + 1
"""
_COUNT = """
UPDATE task_progress AS p SET pending = p.pending + p.failed + p.successful, failed = 0, allowed = 0, successful = 0,
    undoing = {undoing}, change_number = p.change_number + 1
WHERE p.id = :task
"""
# Subqueries that stay such, instead of joins: nobody can tell the planner how many have begun, and a wrong guess would compare
# every row with every other.
_TURN = text(
    f"""
WITH counted AS MATERIALIZED (
    SELECT s.id, (
        SELECT count(*)::int FROM subtask_edges AS e CROSS JOIN LATERAL (
            SELECT FROM subtasks AS f
            WHERE f.id = e.downstream_id AND (f.state IN ('SUCCESSFUL', 'FAILED') OR f.attempted_at IS NOT NULL) OFFSET 0
        ) AS begun
        WHERE e.upstream_id = s.id
    ) AS n FROM subtasks AS s WHERE {_BEGUN}
), turned AS (
    UPDATE subtasks AS s SET {_TURNED}, rollback_downstreams = c.n, gate = CASE WHEN c.n > 0 THEN 'downstreams' END,
        finalized_at = NULL
    FROM counted AS c WHERE s.id = c.id
)
{_COUNT.format(undoing="(SELECT count(*) FROM counted)")}
"""
)
_UNDO_ALL = text(
    f"""
WITH turned AS (
    UPDATE subtasks AS s SET {_TURNED}, rollback_downstreams = 0, gate = 'undone', finalized_at = now()
    WHERE {_BEGUN}
)
{_COUNT.format(undoing="0")}
"""
)
_TURN_AGAIN = text(
    """
WITH again AS (
    UPDATE subtasks SET state = 'PENDING', operation = 'ROLLBACK', finalized_at = NULL, failures = 0, starts = 0,
        generation = generation + 1
    WHERE task_id = :task AND state = 'FAILED'
    RETURNING id
), counted AS (
    SELECT count(*)::int AS n FROM again
)
UPDATE task_progress AS p SET pending = p.pending + n, failed = p.failed - n, startable = p.startable + n,
    change_number = p.change_number + 1
FROM counted WHERE p.id = :task
"""
)


def rollback(connection: Connection, task: TaskId, order: Order) -> None:
    """Undo what began in a FAILED task; after a failed rollback, go on with what has not been undone.

    Raises:
        NotFound: The account has no such task.
        WrongState: It is not FAILED.
        RollbackProhibited: The task forbids it, or a subtask that began does; `target` is the subtask's key.
        DuplicateInstance: Another task holds the instance by now.

    """
    subject = orders.lock_task(connection, task, order)
    subject.require("rollback", {TaskState.FAILED})
    if subject.progress.undoing is None:
        _turn(connection, subject)
    else:
        connection.execute(_TURN_AGAIN, {"task": task})
    reopening.reopen(connection, subject, Operation.ROLLBACK)
    settlement.conclude(connection, before=subject.progress, after=progress.read(connection, task))
    orders.note(connection, "rollback", order, subject)


def _turn(connection: Connection, subject: Subject) -> None:
    """Turn all that began around, and undo what comes first without a handler."""
    task = subject.id
    look = connection.execute(_LOOK, {"task": task}).one()
    _refuse_prohibited(subject, look.key, prohibited=look.prohibited)
    connection.execute(_TURN if look.handled else _UNDO_ALL, {"task": task})
    progress.recount_startable(connection, task)
    if look.handled and look.handled < look.begun:
        pass_over(connection, task)


def _refuse_prohibited(subject: Subject, key: str | None, *, prohibited: bool) -> None:
    if key is not None:
        raise RollbackProhibited(
            f"subtask {key!r} of task {subject.id} has begun and must not be rolled back: retry, skip or abandon",
            target=key,
        )
    if prohibited:
        raise RollbackProhibited(
            f"task {subject.id} was submitted with prohibitRollback: retry, skip or abandon", target=str(subject.id)
        )


# Given the rows `undone (id)`: what waited for them has one downstream less to wait for.
_FREE = """
freed AS (
    SELECT e.upstream_id AS id, count(*)::int AS n
    FROM subtask_edges AS e JOIN undone AS u ON u.id = e.downstream_id GROUP BY e.upstream_id
), released AS (
    UPDATE subtasks AS s SET rollback_downstreams = s.rollback_downstreams - f.n,
        gate = CASE WHEN s.rollback_downstreams > f.n THEN 'downstreams' END
    FROM freed AS f WHERE s.id = f.id AND s.gate = 'downstreams'
    RETURNING s.id, s.gate IS NULL AS startable
), opened AS (
    SELECT (count(*) FILTER (WHERE startable))::int AS n, array_agg(id) FILTER (WHERE startable) AS opened_ids FROM released
)
"""
# In SQL's statement order a row changes once: those undone here open the next ones, which the next statement undoes. It is
# given them, because the index of what may start also holds what never began, which may be most of the task.
_UNDO_NEXT = """
WITH undone AS (
    UPDATE subtasks AS s SET gate = 'undone', finalized_at = now()
    FROM subtask_specs AS d
    WHERE d.id = s.id AND s.task_id = :task{among} AND s.state = 'PENDING' AND s.operation = 'ROLLBACK'
        AND s.pending_upstreams = 0 AND s.carrier IS NULL AND s.scheduled_at IS NULL AND s.gate IS NULL
        AND (NOT d.has_rollback OR s.attempted_at IS NULL)
    RETURNING s.id
), {free}
UPDATE task_progress AS p SET undoing = p.undoing - u.n, startable = p.startable - u.n + opened.n,
    change_number = p.change_number + 1
FROM (SELECT count(*)::int AS n FROM undone) AS u, opened WHERE p.id = :task AND u.n > 0
RETURNING opened.opened_ids
"""
_UNDO_STARTABLE = text(_UNDO_NEXT.format(among="", free=_FREE))
_UNDO_THESE = text(_UNDO_NEXT.format(among=" AND s.id = ANY (CAST(:ids AS bigint[]))", free=_FREE))
_MOST_PASSES = 100  # in one transaction, so that a deep graph holds the lock for short times only


def pass_over(connection: Connection, task: TaskId, *, opened: Sequence[int] | None = None) -> bool:
    """Undo what needs no handler and is next, and so on: straight to PENDING. Holds the progress row.

    `opened` are the only ones that may be next; without it all are looked through.
    Returns whether nothing of that sort is left; else a dispatcher is woken, which goes on.
    """
    for _ in range(_MOST_PASSES):
        statement = _UNDO_STARTABLE if opened is None else _UNDO_THESE
        opened = connection.execute(statement, {"task": task, "ids": opened}).scalar_one_or_none()
        if not opened:
            return True
    progress.wake_dispatcher(connection, task)
    return False


def go_on(connection: Connection, before: Progress) -> bool:
    """Undo what needs no handler, and settle the task if that was all; tell whether handlers may be called now.

    For a dispatcher, in whose hands a deep graph is left. Holds the progress row.
    """
    done = pass_over(connection, before.id)
    return settlement.conclude(connection, before=before, after=progress.read(connection, before.id)) is None and done


_PASS_FAILED = text(
    f"""
WITH undone AS (
    UPDATE subtasks SET state = 'PENDING', operation = 'SKIP', gate = 'undone', finalized_at = now()
    WHERE id = :subtask AND task_id = :task AND state = 'FAILED'
    RETURNING id
), {_FREE}
UPDATE task_progress AS p SET undoing = p.undoing - u.n, failed = p.failed - u.n, pending = p.pending + u.n,
    startable = p.startable + opened.n, change_number = p.change_number + 1
FROM (SELECT count(*)::int AS n FROM undone) AS u, opened WHERE p.id = :task AND u.n > 0
RETURNING opened.opened_ids
"""
)


def pass_failed(connection: Connection, task: TaskId, subtask: SubtaskId) -> None:
    """Count a FAILED step of a rollback as done. Holds the progress row."""
    opened = connection.execute(_PASS_FAILED, {"task": task, "subtask": subtask}).scalar_one_or_none()
    if opened:
        pass_over(connection, task, opened=opened)


# A handler may end well although it was asked to stop; the subtask has failed for all that, and says why.
CANCELED_ERROR = """
    coalesce(o.error_type, CASE WHEN d.was = 'CANCELING' THEN 'cancelled' END),
    coalesce(o.error_message, CASE WHEN d.was = 'CANCELING' THEN 'was cancelled; its handler ended all the same' END)
"""
RECORD = text(
    f"""
WITH outcome AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:outcomes AS jsonb)) AS o (
        id bigint, verdict text, started_at timestamptz, finished_at timestamptz,
        delay_seconds float8, error_type text, error_message text, error_line int, lost boolean)
), before AS (
    SELECT s.id, s.state AS was, CASE
            WHEN s.state = 'CANCELING' THEN 'FAILED' WHEN o.verdict = 'FAILED' THEN 'FAILED' ELSE 'PENDING'
        END AS new_state, s.state = 'RUNNING' AND o.verdict = 'SUCCESSFUL' AS undone
    FROM outcome AS o JOIN subtasks AS s ON s.id = o.id
    WHERE s.task_id = :task AND s.claim = :claim AND s.state IN ('RUNNING', 'CANCELING')
), done AS (
    UPDATE subtasks AS s
    SET state = b.new_state, claim = NULL, process = NULL, carrier = NULL, gate = CASE WHEN b.undone THEN 'undone' END,
        operation = CASE WHEN b.was = 'CANCELING' THEN 'CANCEL' ELSE s.operation END,
        failures = s.failures + (NOT b.undone AND NOT o.lost)::int,
        finalized_at = CASE WHEN b.undone OR b.new_state = 'FAILED' THEN o.finished_at END,
        scheduled_at = CASE WHEN b.new_state = 'PENDING' AND o.delay_seconds > 0
            THEN now() + o.delay_seconds * interval '1 second' END
    FROM before AS b JOIN outcome AS o USING (id)
    WHERE s.id = b.id
    RETURNING s.id, b.was, b.new_state, b.undone, s.scheduled_at, s.operation, s.attempt, s.executor,
        s.started_at AS claimed_at
), attempts AS (
    INSERT INTO subtask_attempts (subtask_id, claim, task_id, attempt, operation, outcome, executor,
        claimed_at, started_at, finished_at, error_type, error_message, error_line)
    SELECT d.id, :claim, :task, d.attempt, 'ROLLBACK', CASE
            WHEN d.was = 'CANCELING' THEN 'CANCELED' WHEN o.lost THEN 'LOST' WHEN d.undone THEN 'SUCCESSFUL' ELSE 'FAILED'
        END, d.executor, d.claimed_at, o.started_at, o.finished_at, {CANCELED_ERROR}, o.error_line
    FROM done AS d JOIN outcome AS o USING (id)
), undone AS (
    SELECT id FROM done WHERE undone
), {_FREE}, ended AS (
    SELECT count(*)::int AS n, (count(*) FILTER (WHERE was = 'RUNNING'))::int AS ran,
        (count(*) FILTER (WHERE undone))::int AS undone,
        (count(*) FILTER (WHERE new_state = 'FAILED'))::int AS failed,
        (count(*) FILTER (WHERE new_state = 'PENDING'))::int AS pending,
        (count(*) FILTER (WHERE new_state = 'PENDING' AND NOT undone AND scheduled_at IS NULL))::int AS startable,
        array_agg(id) AS ids, array_agg(id) FILTER (WHERE was = 'CANCELING') AS canceled_ids
    FROM done
), moved AS (
    UPDATE task_progress AS p
    SET running = p.running - e.ran, canceling = p.canceling - (e.n - e.ran), failed = p.failed + e.failed,
        pending = p.pending + e.pending, startable = p.startable + e.startable + opened.n,
        undoing = p.undoing - e.undone, change_number = p.change_number + 1
    FROM ended AS e, opened WHERE p.id = :task AND e.n > 0
    RETURNING {", ".join("p." + name for name in progress.COLUMNS.split(", "))}, e.ids, e.undone AS ended_well,
        opened.opened_ids, e.canceled_ids
)
SELECT * FROM moved
"""
)
