"""What is stored about a task that may not move: a statement for each group of facts, all on one snapshot, without locks.

Each has an index for what it asks, or reads the task's own rows once; those that read many are asked only where their answer
matters. Who holds the task's row is read from its `xmax`, because to try the lock would be to take it.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, text

from schema.identity import TaskId
from schema.states import SubtaskState, TaskState
from schema.transitions.progress import COLUMNS, Progress
from taskserver.diagnosis.facts import (
    Begun,
    Course,
    Delayed,
    Failed,
    Gated,
    Group,
    Holder,
    Locker,
    Pause,
    Stored,
    Waits,
    WorkerFacts,
    still_lying,
)
from taskserver.diagnosis.finding import SHOWN
from taskserver.diagnosis.thresholds import LOST_SLACK_SECONDS, RESCUE_SLACK_SECONDS
from taskserver.queries.details import no_task
from taskserver.queries.reading import one_snapshot

_MOST_BEGUN = 1_000
_MOST_WORKERS = 500
_MOST_WATCHED = 1_000  # of what was released: its messages are taken in no order of ids


def _seconds_since(moment: str) -> str:
    return f"extract(epoch FROM now() - {moment})::float8"


_STARTABLE = (
    "s.state = 'PENDING' AND pending_upstreams = 0 AND carrier IS NULL AND scheduled_at IS NULL AND gate IS NULL"
)
_LIVE_CARRIERS = """SELECT unnest(carriers) FROM workers
        WHERE stopped_at IS NULL AND beat_at > now() - :silence * interval '1 second'"""
_COURSE = text(
    f"""
SELECT t.task_id, t.state, t.account, t.priority, t.subtask_count, t.error ->> 'type' AS error_type,
    t.error ->> 'message' AS error_message, t.queued_key IS NOT NULL AS queued, p.opens_at,
    greatest(0, {_seconds_since("to_timestamp(t.created_at / 1000.0)")}) AS seconds,
    -{_seconds_since("p.opens_at")} AS opens_in, nullif(greatest(0, {_seconds_since("t.deadline_at")}), 0) AS overdue_seconds,
    (SELECT count(*) FROM tasks AS q WHERE q.queued_key = t.queued_key AND q.id < t.id) AS queued_before,
    h.id AS holder_id, h.state AS holder_state, h.name AS holder_name,
    greatest(0, {_seconds_since("to_timestamp(h.created_at / 1000.0)")}) AS holder_seconds,
    o.principal AS pause_principal, o.reason AS pause_reason, {_seconds_since("o.created_at")} AS pause_seconds,
    {", ".join("p." + name for name in COLUMNS.split(", "))}
FROM tasks AS t JOIN task_progress AS p ON p.id = t.id
    LEFT JOIN tasks AS h ON h.duplicate_key = t.queued_key
    LEFT JOIN LATERAL (
        SELECT principal, reason, created_at FROM operations
        WHERE task_id = t.id AND verb = 'pause' AND t.state = 'SUSPENDED' ORDER BY id DESC LIMIT 1
    ) AS o ON true
WHERE t.id = :task AND t.account = :account
"""
)
_GROUPS = text(
    f"""
WITH waiting AS (
    SELECT id, state, false AS declined, false AS unclaimed, released_at FROM subtasks AS s
    WHERE task_id = :task AND {_STARTABLE} AND (NOT :named OR operation <> 'EXECUTE')
    UNION ALL
    SELECT id, state, true, false, released_at FROM subtasks
    WHERE task_id = :task AND state = 'PENDING' AND scheduled_at IS NOT NULL AND declined AND pending_upstreams = 0
        AND gate IS NULL AND (NOT :named OR operation <> 'EXECUTE')
    UNION ALL
    SELECT id, state, false, released_at < now() - :lost * interval '1 second' AND carrier NOT IN ({_LIVE_CARRIERS}), released_at
    FROM subtasks WHERE task_id = :task AND state = 'READY' AND carrier IS NOT NULL
), grouped AS (
    SELECT w.state, w.declined, w.unclaimed, d.queue, coalesce(d.kind, '') AS kind, count(*) AS count,
        array_agg(w.id) AS ids,
        CASE WHEN w.unclaimed THEN {_seconds_since("min(w.released_at)")} ELSE 0 END AS oldest_seconds,
        CASE WHEN w.unclaimed THEN {_MOST_WATCHED} WHEN w.state = 'PENDING' AND NOT w.declined THEN {SHOWN} ELSE 0 END AS most
    FROM waiting AS w JOIN subtask_specs AS d ON d.id = w.id
    GROUP BY w.state, w.declined, w.unclaimed, d.queue, d.kind
)
SELECT g.state, g.declined, g.unclaimed, g.queue, g.kind, g.count, g.oldest_seconds, w.watched, w.released,
    ARRAY(SELECT id FROM unnest(g.ids) AS id ORDER BY id LIMIT {SHOWN}) AS "some"
FROM grouped AS g CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(s.id ORDER BY s.id), '{{}}') AS watched,
        coalesce(array_agg(s.released_at ORDER BY s.id), '{{}}') AS released
    FROM subtasks AS s WHERE s.id = ANY (ARRAY(SELECT id FROM unnest(g.ids) AS id ORDER BY id LIMIT g.most))
) AS w
ORDER BY g.queue, g.kind, g.state, g.declined, g.unclaimed
"""
)
# What still lies as it did: whatever a server does with it leaves another time of release.
_STANDING = text(
    f"""
SELECT s.id FROM unnest(CAST(:ids AS bigint[]), CAST(:states AS text[]), CAST(:released AS timestamptz[]))
        AS w (id, state, released_at) JOIN subtasks AS s ON s.id = w.id
WHERE s.task_id = :task AND s.state = w.state AND s.released_at IS NOT DISTINCT FROM w.released_at
    AND ({_STARTABLE} OR (s.state = 'READY' AND s.carrier NOT IN ({_LIVE_CARRIERS})))
"""
)
# Before the database has been up for that long, nobody can have named a claim.
_KNOWN_SINCE = "now() - :forgotten * interval '1 second'"
_ASKED_AT = """coalesce((
        SELECT max(o.created_at) FROM operations AS o
        WHERE o.task_id = s.task_id AND o.verb IN ('cancel', 'deadline') AND (o.subtask_id IS NULL OR o.subtask_id = s.id)
    ), s.started_at)"""
_BEGUN = text(
    f"""
SELECT s.id, d.key, coalesce(d.kind, '') AS kind, s.state, s.executor, d.timeout, k.typical_seconds,
    {_seconds_since("s.started_at")} AS seconds,
    CASE WHEN s.state = 'CANCELING' THEN {_seconds_since(_ASKED_AT)} END AS asked_seconds,
    s.started_at > {_KNOWN_SINCE} OR pg_postmaster_start_time() > {_KNOWN_SINCE} OR s.claim IN (
        SELECT unnest(claims) FROM workers WHERE beat_at > {_KNOWN_SINCE}
    ) AS held
FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id LEFT JOIN kinds AS k ON k.name = d.kind
WHERE s.state IN ('RUNNING', 'CANCELING') AND s.task_id = :task
ORDER BY s.started_at, s.id LIMIT {_MOST_BEGUN}
"""
)
_FAILED = text(
    f"""
SELECT s.id, d.key, coalesce(d.kind, '') AS kind, a.error_type, a.error_message
FROM (
    SELECT id FROM subtasks WHERE task_id = :task AND state = 'FAILED' AND (NOT allow_failure OR :backwards)
    ORDER BY finalized_at, id LIMIT {SHOWN}
) AS s JOIN subtask_specs AS d ON d.id = s.id LEFT JOIN LATERAL (
    SELECT error_type, error_message FROM subtask_attempts WHERE subtask_id = s.id ORDER BY claim DESC LIMIT 1
) AS a ON true
"""
)
_UNDOABLE = text(
    """
SELECT NOT t.prohibit_rollback AND NOT EXISTS (
    SELECT FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id
    WHERE d.task_id = t.id AND d.prohibit_rollback AND s.attempted_at IS NOT NULL
) FROM tasks AS t WHERE t.id = :task
"""
)
# Of the failing task: what it waits for before it ends, in the words of `settlement`.
_NAMED = text(
    f"""
SELECT (SELECT count(*) FROM subtasks AS s WHERE task_id = :task AND operation <> 'EXECUTE' AND {_STARTABLE}) + (
    SELECT count(*) FROM subtasks
    WHERE task_id = :task AND operation <> 'EXECUTE' AND state = 'PENDING' AND scheduled_at IS NOT NULL
)
"""
)
_DELAYED = text(
    f"""
SELECT s.id, d.key, s.scheduled_at AS due_at, -{_seconds_since("s.scheduled_at")} AS due_in, s.failures, d.max_attempts,
    s.declined, s.total, a.error_message
FROM (
    SELECT id, scheduled_at, failures, declined, count(*) OVER alike AS total,
        row_number() OVER (alike ORDER BY scheduled_at, id) AS place
    FROM subtasks
    WHERE task_id = :task AND state = 'PENDING' AND scheduled_at IS NOT NULL AND (NOT :named OR operation <> 'EXECUTE')
    WINDOW alike AS (PARTITION BY declined)
) AS s JOIN subtask_specs AS d ON d.id = s.id LEFT JOIN LATERAL (
    SELECT error_message FROM subtask_attempts WHERE subtask_id = s.id ORDER BY claim DESC LIMIT 1
) AS a ON true
WHERE s.place <= {SHOWN} ORDER BY s.scheduled_at, s.id
"""
)
_GATED = text(
    f"""
SELECT s.gate, count(*) AS count, (array_agg(s.id))[1:{SHOWN}] AS "some", (array_agg(d.key))[1] AS key
FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id
WHERE d.task_id = :task AND s.state = 'PENDING' AND s.pending_upstreams = 0 AND s.gate IS NOT NULL AND s.gate <> 'undone'
GROUP BY s.gate
"""
)
_WORKERS = text(
    f"""
SELECT name, host, pid, queues, alive, stopped_at IS NOT NULL AS stopped,
    greatest(0, concurrency - cardinality(carriers)) AS free_slots, {_seconds_since("started_at")} AS seconds,
    {_seconds_since("beat_at")} AS silent_seconds,
    CASE WHEN kinds IS NOT NULL THEN ARRAY(SELECT unnest(kinds) INTERSECT SELECT unnest(CAST(:kinds AS text[]))) END AS kinds
FROM (
    SELECT *, stopped_at IS NULL AND beat_at > now() - :silence * interval '1 second' AS alive FROM workers
    WHERE queues && CAST(:queues AS text[])
) AS w ORDER BY alive DESC, beat_at DESC LIMIT {_MOST_WORKERS}
"""
)
_LOCKER = text(
    f"""
SELECT l.pid, coalesce(a.application_name, '') AS application, a.state, {_seconds_since("a.xact_start")} AS seconds
FROM (
    SELECT xmax AS holder FROM task_progress WHERE id = :task UNION SELECT xmax FROM tasks WHERE id = :task
) AS r JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = r.holder
    LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.pid <> pg_backend_pid() ORDER BY a.xact_start NULLS FIRST LIMIT 1
"""
)
_AHEAD = text(
    """
SELECT count(*) FROM task_progress
WHERE open AND startable > 0 AND account = :account AND (priority > :priority OR (priority = :priority AND id < :task))
"""
)

_MOST_IN_LINE = 100
_INSERTED = "subtask_count IS NULL AND state = 'CREATED' AND account = :account"
_LINE = text(f"SELECT id FROM tasks WHERE {_INSERTED} ORDER BY priority DESC, id LIMIT {_MOST_IN_LINE}")
_STILL_IN_LINE = text(f"SELECT count(*) FROM tasks WHERE {_INSERTED} AND id = ANY (CAST(:line AS bigint[]))")


def read_stored(engine: Engine, task: TaskId, *, account: str, waits: Waits) -> Stored:
    """Return all that is stored about why the task does not move.

    Raises:
        NotFound: The account has no such task.

    """
    with one_snapshot(engine) as connection:
        course = _read_course(connection, task, account)
        if course.is_final:
            return Stored(course)
        return _read_rest(connection, course, waits)


def reread_moving(engine: Engine, before: Stored, *, waits: Waits) -> Stored:
    """Return the facts again, with those anew that change while a dispatcher and workers are at work.

    Of the groups those are left that lie as they did, and the line if none has left it.

    Raises:
        NotFound: The task has been deleted.

    """
    course = before.course
    with one_snapshot(engine) as connection:
        groups = still_lying(before.groups, _read_standing(connection, before, waits))
        return Stored(
            _read_course(connection, course.id, course.account),
            groups=groups,
            workers=_read_workers(connection, groups, waits),
            locker=_read_locker(connection, course.id),
            line=_read_standing_line(connection, before),
        )


def _read_rest(connection: Connection, course: Course, waits: Waits) -> Stored:
    task, progress = course.id, course.progress
    groups = _read_groups(connection, course, waits) if progress.open else []
    delayed = _rows(connection, _DELAYED, task=task, named=progress.only_named) if progress.pending else []
    failed = _rows(connection, _FAILED, task=task, backwards=progress.undoing is not None) if progress.failed else []
    begun = _rows(connection, _BEGUN, task=task, forgotten=_forgotten(waits)) if progress.begun else []
    gated = _rows(connection, _GATED, task=task) if course.stands_still and progress.pending and progress.open else []
    return Stored(
        course,
        groups=groups,
        begun=[Begun(**{**row, "state": SubtaskState(row["state"])}) for row in begun],
        failed=[Failed(**row) for row in failed],
        undoable=bool(connection.execute(_UNDOABLE, {"task": task}).scalar_one()) if failed else True,
        delayed=[Delayed(**{name: row[name] for name in Delayed.__slots__}) for row in delayed],
        delayed_count=next((row["total"] for row in delayed if not row["declined"]), 0),
        named=_read_named(connection, course) if failed and progress.pending else 0,
        gated=[Gated(**row) for row in gated],
        workers=_read_workers(connection, groups, waits),
        locker=_read_locker(connection, task),
        line=_read_line(connection, course) if course.is_inserted else (),
        ahead=_read_ahead(connection, course) if progress.may_start and not progress.begun + progress.ready else 0,
    )


def _rows(connection: Connection, statement: Any, **parameters: object) -> Sequence[RowMapping]:
    return connection.execute(statement, parameters).mappings().all()


def _forgotten(waits: Waits) -> float:
    return waits.dead_after_seconds + RESCUE_SLACK_SECONDS


def _read_course(connection: Connection, task: TaskId, account: str) -> Course:
    row = connection.execute(_COURSE, {"task": task, "account": account}).mappings().one_or_none()
    if row is None:
        raise no_task(task)
    return Course(
        id=task,
        task_hex=row["task_id"],
        state=TaskState(row["state"]),
        progress=Progress.of(row),
        account=row["account"],
        priority=row["priority"],
        seconds=row["seconds"],
        subtask_count=row["subtask_count"],
        error_type=row["error_type"],
        error_message=row["error_message"],
        opens_at=row["opens_at"],
        opens_in=row["opens_in"],
        overdue_seconds=row["overdue_seconds"],
        queued=row["queued"],
        queued_before=row["queued_before"],
        holder=_holder(row),
        pause=_pause(row),
    )


def _holder(row: RowMapping) -> Holder | None:
    if row["holder_id"] is None:
        return None
    return Holder(row["holder_id"], row["holder_state"], row["holder_name"], row["holder_seconds"])


def _pause(row: RowMapping) -> Pause | None:
    if row["pause_principal"] is None:
        return None
    return Pause(row["pause_principal"], row["pause_seconds"], row["pause_reason"])


def _read_groups(connection: Connection, course: Course, waits: Waits) -> list[Group]:
    rows = _rows(
        connection,
        _GROUPS,
        task=course.id,
        named=course.progress.only_named,
        lost=waits.lost_after_seconds + LOST_SLACK_SECONDS,
        silence=waits.dead_after_seconds,
    )
    return [Group(**{**row, "state": SubtaskState(row["state"])}) for row in rows]


def _read_standing(connection: Connection, before: Stored, waits: Waits) -> frozenset[int]:
    watched = [
        (subtask, group.state, released_at)
        for group in before.groups
        for subtask, released_at in zip(group.watched, group.released, strict=True)
    ]
    ids, states, released = zip(*watched, strict=True) if watched else ((), (), ())
    parameters = {"ids": list(ids), "states": list(states), "released": list(released)}
    silence = waits.dead_after_seconds
    rows = _rows(connection, _STANDING, task=before.course.id, silence=silence, **parameters)
    return frozenset(row["id"] for row in rows)


def _read_named(connection: Connection, course: Course) -> int:
    return 0 if course.is_settled else int(connection.execute(_NAMED, {"task": course.id}).scalar_one())


def _read_workers(connection: Connection, groups: Sequence[Group], waits: Waits) -> list[WorkerFacts]:
    if not groups:
        return []
    queues = sorted({one.queue for one in groups})
    kinds = sorted({one.kind for one in groups})
    rows = _rows(connection, _WORKERS, queues=queues, kinds=kinds, silence=waits.dead_after_seconds)
    return [WorkerFacts(**{**row, "kinds": None if row["kinds"] is None else frozenset(row["kinds"])}) for row in rows]


def _read_locker(connection: Connection, task: TaskId) -> Locker | None:
    row = connection.execute(_LOCKER, {"task": task}).mappings().one_or_none()
    return None if row is None else Locker(**row)


def _read_ahead(connection: Connection, course: Course) -> int:
    parameters = {"account": course.account, "priority": course.priority, "task": course.id}
    return int(connection.execute(_AHEAD, parameters).scalar_one())


def _read_line(connection: Connection, course: Course) -> Sequence[int]:
    return connection.execute(_LINE, {"account": course.account}).scalars().all()


def _read_standing_line(connection: Connection, before: Stored) -> Sequence[int]:
    if not before.line:
        return ()
    parameters = {"account": before.course.account, "line": list(before.line)}
    return before.line if connection.execute(_STILL_IN_LINE, parameters).scalar_one() == len(before.line) else ()
