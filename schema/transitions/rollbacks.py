"""Rollback: what began is undone in reverse order, branches in parallel. SUCCESSFUL | FAILED → PENDING, run backwards.

The fan-in is that of going forward, turned around: each row counts its downstreams that are not undone yet
(`rollback_downstreams`) and waits behind the gate 'downstreams'; the end of the last of them opens it. What is undone stands
PENDING behind the gate 'undone'. `task_progress.undoing` counts what is left; at 0 the task is ROLLED_BACK. Subtasks are
turned around from the last on, in portions: whatever follows one has been turned before it, so it knows what it waits for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, text

from schema.errors import RollbackProhibited
from schema.identity import SubtaskId, TaskId
from schema.states import Operation, SubtaskState, TaskState
from schema.transitions import orders, progress, reopening, settlement, turning
from schema.transitions.orders import Order, Subject

_PROHIBITED = text(
    """
SELECT prohibit_rollback AS task, (
    SELECT d.key FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id
    WHERE d.task_id = :task AND d.prohibit_rollback AND s.attempted_at IS NOT NULL ORDER BY d.series_id LIMIT 1
) AS subtask
FROM tasks WHERE id = :task
"""
)


def rollback(connection: Connection, task: TaskId, order: Order) -> None:
    """Undo what began in a FAILED task; after a failed rollback, go on with what has not been undone.

    Of a large task a first portion is turned around here; the task is RUNNING, and a dispatcher turns the rest.

    Raises:
        NotFound: The account has no such task.
        WrongState: It is not FAILED.
        RollbackProhibited: The task forbids it, or a subtask that began does; `target` is the subtask's key.
        DuplicateInstance: Another task holds the instance by now.

    """
    subject = orders.lock_task(connection, task, order)
    subject.require("rollback", {TaskState.FAILED})
    if subject.progress.undoing is None:
        _refuse_prohibited(connection, subject)
    turn(connection, task, below=turning.FROM_THE_LAST)
    reopening.reopen(connection, subject, Operation.ROLLBACK)
    settlement.conclude(connection, before=subject.progress, after=progress.read(connection, task))
    orders.note(connection, "rollback", order, subject)


def _refuse_prohibited(connection: Connection, subject: Subject) -> None:
    prohibited = connection.execute(_PROHIBITED, {"task": subject.id}).one()
    if prohibited.subtask is not None:
        raise RollbackProhibited(
            f"subtask {prohibited.subtask!r} of task {subject.id} has begun and must not be rolled back: retry, skip or"
            " abandon",
            target=prohibited.subtask,
        )
    if prohibited.task:
        raise RollbackProhibited(
            f"task {subject.id} was submitted with prohibitRollback: retry, skip or abandon", target=str(subject.id)
        )


_STARTABLE = "s.state = 'PENDING' AND s.pending_upstreams = 0 AND s.carrier IS NULL AND s.scheduled_at IS NULL AND s.gate IS NULL"
_UNHANDLED = "(NOT d.has_rollback OR s.attempted_at IS NULL)"
# What has begun and is not turned, or has failed as a step. Subqueries that stay such, instead of joins: nobody can tell the
# planner how many have begun, and a wrong guess would sort, or compare with one another, all the rows of the task each time.
_PORTION = text(
    f"""
SELECT d.id, begun.state, begun.startable, d.has_rollback AND begun.attempted AS handled
FROM subtask_specs AS d CROSS JOIN LATERAL (
    SELECT s.state, {_STARTABLE} AS startable, s.attempted_at IS NOT NULL AS attempted FROM subtasks AS s
    WHERE s.id = d.id AND (s.state IN ('SUCCESSFUL', 'FAILED')
        OR (s.attempted_at IS NOT NULL AND s.operation <> 'ROLLBACK' AND s.gate IS DISTINCT FROM 'undone')) OFFSET 0
) AS begun
WHERE d.task_id = :task
    AND d.series_id < coalesce((SELECT series_id FROM subtask_specs WHERE id = :below), CAST(2147483647 AS integer))
ORDER BY d.series_id DESC LIMIT :most
"""
)
_DOWNSTREAMS = text(
    """
SELECT e.upstream_id, array_agg(e.downstream_id) AS ids
FROM subtask_edges AS e CROSS JOIN LATERAL (
    SELECT FROM subtasks AS f
    WHERE f.id = e.downstream_id AND (f.state IN ('SUCCESSFUL', 'FAILED') OR f.attempted_at IS NOT NULL)
        AND f.gate IS DISTINCT FROM 'undone' OFFSET 0
) AS begun
WHERE e.upstream_id BETWEEN :lowest AND :highest GROUP BY e.upstream_id
"""
)
# As in `releases`: found by their ids, whatever the statistics say.
_TURN = text(
    """
WITH turned AS (
    UPDATE subtasks AS s SET state = 'PENDING', operation = 'ROLLBACK', pending_upstreams = 0, carrier = NULL,
        scheduled_at = NULL, failures = 0, starts = 0, generation = s.generation + 1, rollback_downstreams = p.waits,
        gate = CASE WHEN p.undone THEN 'undone' WHEN p.waits > 0 THEN 'downstreams' END,
        finalized_at = CASE WHEN p.undone THEN now() END
    FROM unnest(CAST(:ids AS bigint[]), CAST(:waits AS integer[]), CAST(:undone AS boolean[])) AS p (id, waits, undone)
    WHERE s.id = p.id AND s.id = ANY (CAST(:ids AS bigint[])) AND CASE WHEN s.task_id = :task THEN true END
)
UPDATE task_progress AS p SET pending = p.pending + :failed + :successful, failed = p.failed - :failed, allowed = 0,
    successful = p.successful - :successful, startable = p.startable + :opened,
    undoing = coalesce(p.undoing, p.failed) + :added, change_number = p.change_number + 1
WHERE p.id = :task
"""
)


@dataclass(frozen=True, slots=True)
class _Step:
    """A subtask as it is turned around: for how many downstreams it waits, and whether it is undone by that alone."""

    id: int
    waits: int
    undone: bool

    @property
    def is_startable(self) -> bool:
        return not self.waits and not self.undone


def turn(connection: Connection, task: TaskId, *, below: int) -> None:
    """Turn a portion of what began around, from the last below this id on. Holds the progress row."""
    parameters = {"task": task, "below": below, "most": turning.MOST_SUBTASKS}
    found = connection.execute(_PORTION, parameters).mappings().all()
    fit = len(turning.fitting(connection, [row["id"] for row in found]))
    portion = found[:fit]
    steps = _steps(portion, _downstreams(connection, portion))
    states = [row["state"] for row in portion]
    failed, successful = states.count(SubtaskState.FAILED), states.count(SubtaskState.SUCCESSFUL)
    changes = {
        "ids": [one.id for one in steps],
        "waits": [one.waits for one in steps],
        "undone": [one.undone for one in steps],
        "failed": failed,
        "successful": successful,
        "opened": sum(one.is_startable for one in steps) - sum(row["startable"] for row in portion),
        "added": len(steps) - failed - sum(one.undone for one in steps),
    }
    connection.execute(_TURN, {"task": task, **changes})
    more = fit < len(found) or fit == turning.MOST_SUBTASKS
    turning.note(connection, task, below=portion[-1]["id"] if more else None)


def _downstreams(connection: Connection, portion: Sequence[RowMapping]) -> Mapping[int, Sequence[int]]:
    if not portion:
        return {}
    bounds = {"lowest": portion[-1]["id"], "highest": portion[0]["id"]}
    return {row.upstream_id: row.ids for row in connection.execute(_DOWNSTREAMS, bounds)}


def _steps(portion: Sequence[RowMapping], downstreams: Mapping[int, Sequence[int]]) -> list[_Step]:
    """Decide from the last on: one that has no handler is undone as soon as all that follows it is."""
    steps, undone = [], set()
    for row in portion:
        waits = sum(one not in undone for one in downstreams.get(row["id"], ()))
        step = _Step(row["id"], waits, undone=not waits and not row["handled"])
        if step.undone:
            undone.add(step.id)
        steps.append(step)
    return steps


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
_UNDO = text(
    f"""
WITH undone AS (
    UPDATE subtasks AS s SET gate = 'undone', finalized_at = now()
    FROM subtask_specs AS d
    WHERE d.id = s.id AND s.task_id = :task AND s.id = ANY (CAST(:ids AS bigint[])) AND s.operation = 'ROLLBACK'
        AND {_STARTABLE} AND {_UNHANDLED}
    RETURNING s.id
), {_FREE}
UPDATE task_progress AS p SET undoing = p.undoing - u.n, startable = p.startable - u.n + opened.n,
    change_number = p.change_number + 1
FROM (SELECT count(*)::int AS n FROM undone) AS u, opened WHERE p.id = :task AND u.n > 0
RETURNING opened.opened_ids
"""
)
_NEXT = text(
    f"""
SELECT s.id FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id
WHERE s.task_id = :task AND s.operation = 'ROLLBACK' AND {_STARTABLE} AND {_UNHANDLED} LIMIT :most
"""
)
_MOST_PASSES = 100


def pass_over(connection: Connection, task: TaskId, *, opened: Sequence[int] | None = None) -> None:
    """Undo what needs no handler and is next, and so on: straight to PENDING. Holds the progress row.

    `opened` are the only ones that may be next; without it all are looked through. What is left of a deep or a wide graph
    is left to a dispatcher.
    """
    room = turning.MOST_SUBTASKS
    if opened is None:
        opened = connection.execute(_NEXT, {"task": task, "most": room + 1}).scalars().all()
    for _ in range(_MOST_PASSES):
        if not opened or not room:
            break
        now, later = opened[:room], opened[room:]
        freed = connection.execute(_UNDO, {"task": task, "ids": now}).scalar_one_or_none()
        room -= len(now)
        opened = [*later, *(freed or ())]
    if opened:
        turning.note(connection, task, below=0)


def go_on(connection: Connection, task: TaskId, *, below: int) -> None:
    """Turn the next portion around; once all are turned, undo what needs no handler. Holds the progress row."""
    if below:
        turn(connection, task, below=below)
    else:
        turning.note(connection, task, below=None)
        pass_over(connection, task)


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
    coalesce(error_type, CASE WHEN was = 'CANCELING' THEN 'cancelled' END),
    coalesce(error_message, CASE WHEN was = 'CANCELING' THEN 'was cancelled; its handler ended all the same' END)
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
