"""What must hold in every committed snapshot, read from the tables alone: shares no code with the product.

Each entry of `PROMISES` is a promise and a query for what breaks it; `assert_invariants` asks them all in one snapshot. A `Watch`
asks them again and again, and what no single snapshot can tell: whether what has been said before still holds.

The promises of the design (§3), and what holds each:

 1. The database is the truth, a message a hint: messages are lost, doubled, late (`simulation`: "lose a message", "deliver, and
    keep", "recall …"), and still all settles, every subtask accounted for (`test_transition_properties`: `_settle`).
 2. A subtask starts after its upstreams: "nothing is released, runs or has run before …", "no attempt began before …",
    "nothing runs that began before …".
 3. One owner at a time: "a claim is held by what runs …", "a claim number belongs to one process …", "each (subtask, claim) has at
    most one attempt …"; who lost a claim records nothing (`simulation`: "who holds a claim records, and nobody else").
 4. Commit, then publish: `simulation`: "dispatch and die" between the two, and all settles as under 1.
 5. Parent and children agree: "the counters of a task …", "`startable` counts …", "a task is SUCCESSFUL when …", "a task is FAILED
    as soon as …", "the published status …"; whoever waits for a change learns of it (`Watch`: "what changes counts").
 6. History cannot be forgotten: "every attempt that was not handed back …", "the last attempt tells …", "every task has its
    history …"; what was written stays as it was (`Watch`); a verb writes one row of the audit (`simulation`: `_use`).
 7. Settled is settled: `Watch`: "settled is settled"; "no task left FAILED or was REVOKED without …", "a task is abandoned by …".
 8. Fan-in is a counter: "`pending_upstreams` counts …", backwards "`undoing` counts …, `rollback_downstreams` …". That it is an
    atomic decrement takes two at once: `test_records`, `test_verb_races`.
 9. One lock order: takes two at once: `test_lock_order`, `test_verb_races`.
10. Handlers run at least once, outcomes are recorded once: "each (subtask, claim) has at most one attempt …", "failures counts …",
    "what a subtask returned …"; that lost work runs again is the end of every story.
"""

from collections.abc import Mapping

from sqlalchemy import Engine, RowMapping, text

_SATISFIED = "(u.state = 'SUCCESSFUL' OR (u.state = 'FAILED' AND u.allow_failure))"
_FAILING = "EXISTS (SELECT FROM subtasks f WHERE f.task_id = t.id AND f.state = 'FAILED' AND NOT f.allow_failure)"
_BACKWARDS = "EXISTS (SELECT FROM task_progress b WHERE b.id = t.id AND b.undoing IS NOT NULL)"
_STOPPING = "EXISTS (SELECT FROM task_progress b WHERE b.id = t.id AND b.stopping IS NOT NULL)"
_TO_UNDO = "((s.operation = 'ROLLBACK' OR s.state = 'FAILED') AND s.gate IS DISTINCT FROM 'undone')"
_SHOWN = 5  # rows of each broken promise
_SETTLED = "('FAILED', 'REVOKED', 'SUCCESSFUL', 'ROLLED_BACK')"

PROMISES = {
    "the counters of a task equal its subtasks by state": """
        SELECT p.id, p.pending, p.ready, p.running, p.canceling, p.failed, p.successful, p.allowed, c.*
        FROM task_progress p LEFT JOIN LATERAL (
            SELECT count(*) FILTER (WHERE state = 'PENDING') AS n_pending,
                count(*) FILTER (WHERE state = 'READY') AS n_ready,
                count(*) FILTER (WHERE state = 'RUNNING') AS n_running,
                count(*) FILTER (WHERE state = 'CANCELING') AS n_canceling,
                count(*) FILTER (WHERE state = 'FAILED') AS n_failed,
                count(*) FILTER (WHERE state = 'SUCCESSFUL') AS n_successful,
                count(*) FILTER (WHERE state = 'FAILED' AND allow_failure AND p.undoing IS NULL) AS n_allowed
            FROM subtasks WHERE task_id = p.id
        ) c ON true
        WHERE (p.pending, p.ready, p.running, p.canceling, p.failed, p.successful, p.allowed) IS DISTINCT FROM
            (c.n_pending, c.n_ready, c.n_running, c.n_canceling, c.n_failed, c.n_successful, c.n_allowed)
    """,
    "`startable` counts what nothing but a dispatcher holds back": """
        SELECT p.id, p.startable, c.n FROM task_progress p JOIN LATERAL (
            SELECT count(*) AS n FROM subtasks WHERE task_id = p.id AND state = 'PENDING' AND pending_upstreams = 0
                AND carrier IS NULL AND scheduled_at IS NULL AND gate IS NULL
        ) c ON true WHERE p.startable <> c.n
    """,
    "`pending_upstreams` counts the upstreams that are not done": f"""
        SELECT s.task_id, s.id, s.state, s.pending_upstreams, c.n FROM subtasks s JOIN tasks t ON t.id = s.task_id
        JOIN LATERAL (
            SELECT count(*) AS n FROM subtask_edges e JOIN subtasks u ON u.id = e.upstream_id
            WHERE e.downstream_id = s.id AND NOT {_SATISFIED}
        ) c ON true WHERE s.pending_upstreams <> c.n AND NOT {_BACKWARDS}
    """,
    "what is READY has a carrier and a time of release": """
        SELECT id FROM subtasks WHERE state = 'READY' AND (carrier IS NULL OR released_at IS NULL)
    """,
    "a claim is held by what runs, and by nothing else": """
        SELECT id, state, claim, process FROM subtasks
        WHERE (state IN ('RUNNING', 'CANCELING')) <> (claim IS NOT NULL)
            OR (state IN ('RUNNING', 'CANCELING')) <> (process IS NOT NULL)
            OR (state IN ('RUNNING', 'CANCELING') AND (started_at IS NULL OR attempted_at IS NULL OR attempt < 1))
    """,
    "nothing is released, runs or has run before its upstreams are done": f"""
        SELECT s.id, s.state, u.id AS upstream, u.state AS upstream_state
        FROM subtasks s JOIN tasks t ON t.id = s.task_id
        JOIN subtask_edges e ON e.downstream_id = s.id JOIN subtasks u ON u.id = e.upstream_id
        WHERE NOT {_SATISFIED} AND NOT {_BACKWARDS} AND (s.state IN ('READY', 'RUNNING', 'CANCELING')
            OR (s.state IN ('FAILED', 'SUCCESSFUL') AND s.attempt > 0 AND u.operation = 'EXECUTE'))
    """,
    "no attempt began before the last attempts of its upstreams had ended": """
        SELECT a.subtask_id, a.started_at, b.subtask_id AS upstream, b.finished_at
        FROM subtask_attempts a JOIN subtask_edges e ON e.downstream_id = a.subtask_id
        JOIN subtasks u ON u.id = e.upstream_id
        JOIN subtask_attempts b ON b.subtask_id = u.id AND b.attempt = u.attempt
        WHERE a.started_at < b.finished_at AND a.operation = 'EXECUTE' AND b.operation = 'EXECUTE'
    """,
    "nothing runs that began before the last attempts of its upstreams had ended": """
        SELECT s.id, s.started_at, b.subtask_id AS upstream, b.finished_at
        FROM subtasks s JOIN subtask_edges e ON e.downstream_id = s.id JOIN subtasks u ON u.id = e.upstream_id
        JOIN subtask_attempts b ON b.subtask_id = u.id AND b.attempt = u.attempt
        WHERE s.state IN ('RUNNING', 'CANCELING') AND s.operation = 'EXECUTE' AND s.started_at < b.finished_at
    """,
    "each (subtask, claim) has at most one attempt, each attempt number too": """
        SELECT subtask_id, attempt, count(*) FROM subtask_attempts GROUP BY subtask_id, attempt HAVING count(*) > 1
        UNION ALL
        SELECT subtask_id, claim, count(*) FROM subtask_attempts GROUP BY subtask_id, claim HAVING count(*) > 1
        UNION ALL
        SELECT s.id, s.claim, 2 FROM subtasks s JOIN subtask_attempts a ON a.subtask_id = s.id AND a.claim = s.claim
    """,
    "every attempt that was not handed back is in the history": """
        SELECT s.id, s.state, s.attempt, c.n, c.greatest FROM subtasks s JOIN LATERAL (
            SELECT count(*) AS n, coalesce(max(attempt), 0) AS greatest FROM subtask_attempts WHERE subtask_id = s.id
        ) c ON true
        WHERE c.n <> s.attempt - (s.state IN ('RUNNING', 'CANCELING'))::int OR c.greatest <> c.n
    """,
    "failures counts the attempts that a handler lost, starts all of them": """
        SELECT s.id, s.failures, c.n, s.starts, s.attempt FROM subtasks s JOIN LATERAL (
            SELECT count(*) AS n FROM subtask_attempts
            WHERE subtask_id = s.id AND (outcome = 'FAILED' OR (outcome = 'CANCELED' AND error_type <> 'worker_lost'))
        ) c ON true
        WHERE s.operation = 'EXECUTE' AND (s.failures <> c.n OR s.starts <> s.attempt)
    """,
    "a retry by an operator grants the attempts anew, and each counts from then on": """
        SELECT s.id, s.failures, s.starts FROM subtasks s WHERE s.operation = 'RETRY' AND NOT EXISTS (
            SELECT FROM operations o JOIN LATERAL (
                SELECT count(*) AS starts,
                    count(*) FILTER (WHERE outcome = 'FAILED' OR (outcome = 'CANCELED' AND error_type <> 'worker_lost')) AS n
                FROM subtask_attempts a WHERE a.subtask_id = s.id AND a.claimed_at > o.created_at
            ) c ON true
            WHERE o.task_id = s.task_id AND o.verb = 'retry' AND coalesce(o.subtask_id, s.id) = s.id
                AND (s.failures, s.starts) = (c.n, c.starts + (s.state IN ('RUNNING', 'CANCELING'))::int)
        )
    """,
    "the last attempt tells how a subtask ended": """
        SELECT s.id, s.state, s.operation, a.outcome FROM subtasks s
        LEFT JOIN subtask_attempts a ON a.subtask_id = s.id AND a.attempt = s.attempt
        WHERE s.attempt > 0 AND s.operation <> 'SKIP' AND (
            (s.state = 'SUCCESSFUL' AND a.outcome IS DISTINCT FROM 'SUCCESSFUL')
            OR (s.state = 'FAILED' AND s.operation = 'CANCEL' AND a.outcome IS DISTINCT FROM 'CANCELED')
            OR (s.state = 'FAILED' AND s.operation <> 'CANCEL' AND coalesce(a.outcome, '') NOT IN ('FAILED', 'LOST'))
            OR (s.state = 'PENDING' AND s.operation IN ('EXECUTE', 'RETRY') AND a.outcome = 'SUCCESSFUL'))
    """,
    "what has ended has a time of its end, what has not has none": """
        SELECT id, state, finalized_at FROM subtasks
        WHERE (state IN ('FAILED', 'SUCCESSFUL') OR gate IS NOT DISTINCT FROM 'undone') <> (finalized_at IS NOT NULL)
    """,
    "in a settled task nothing is out, and nothing may start": f"""
        SELECT t.id, t.state, p.open, p.ready, p.running, p.canceling FROM tasks t JOIN task_progress p ON p.id = t.id
        WHERE t.state IN {_SETTLED} AND (p.open OR p.ready + p.running + p.canceling > 0)
    """,
    "a task is SUCCESSFUL when and only when all have ended well or as allowed": f"""
        SELECT t.id, t.state FROM tasks t WHERE t.subtask_count > 0 AND NOT {_BACKWARDS} AND NOT {_STOPPING}
            AND t.state IN ('CREATED', 'RUNNING', 'SUSPENDED', 'SUCCESSFUL') AND (t.state = 'SUCCESSFUL') <> (
                NOT {_FAILING}
                AND NOT EXISTS (SELECT FROM subtasks s WHERE s.task_id = t.id AND s.state NOT IN ('SUCCESSFUL', 'FAILED')))
    """,
    "a task is FAILED as soon as one has failed and nothing is at work, and then only": f"""
        SELECT t.id, t.state FROM tasks t WHERE t.subtask_count > 0 AND NOT {_BACKWARDS} AND NOT {_STOPPING}
            AND t.state IN ('CREATED', 'RUNNING', 'SUSPENDED', 'FAILED') AND (t.state = 'FAILED') <> (
                {_FAILING} AND NOT EXISTS (SELECT FROM subtasks s WHERE s.task_id = t.id AND (
                    s.state IN ('READY', 'RUNNING', 'CANCELING')
                    OR (s.state = 'PENDING' AND s.operation <> 'EXECUTE' AND s.pending_upstreams = 0))))
    """,
    "while a task is failing, nothing with operation EXECUTE is out or will be carried": f"""
        SELECT s.id, s.state, s.carrier FROM subtasks s JOIN tasks t ON t.id = s.task_id
        WHERE {_FAILING} AND s.operation = 'EXECUTE'
            AND (s.state = 'READY' OR (s.state = 'PENDING' AND s.carrier IS NOT NULL))
    """,
    "a paused or stopping task has nothing released": """
        SELECT t.id, t.state, s.id, s.state, s.carrier FROM tasks t JOIN task_progress p ON p.id = t.id
        JOIN subtasks s ON s.task_id = t.id
        WHERE (t.state = 'SUSPENDED' OR p.stopping IS NOT NULL) AND (s.state = 'READY' OR (s.state = 'PENDING'
            AND s.carrier IS NOT NULL))
    """,
    "a task that is being stopped is RUNNING while something of it runs, and no longer": f"""
        SELECT t.id, t.state, p.stopping FROM tasks t JOIN task_progress p ON p.id = t.id
        WHERE p.stopping IS NOT NULL AND (
            (t.state = 'RUNNING') <> (p.running + p.canceling > 0) OR t.state IN ('CREATED', 'SUSPENDED'))
            AND t.state NOT IN {_SETTLED}
    """,
    "while a task is rolled back, nothing goes forward": f"""
        SELECT s.id, s.state, s.operation FROM subtasks s JOIN tasks t ON t.id = s.task_id
        JOIN task_progress p ON p.id = t.id
        WHERE {_BACKWARDS} AND (
            (s.state = 'SUCCESSFUL' AND t.state <> 'REVOKED' AND (p.turning IS NULL OR s.id >= p.turning))
            OR (s.operation NOT IN ('ROLLBACK') AND s.state IN ('READY', 'RUNNING', 'CANCELING')))
    """,
    "a verb that goes on in portions has turned all from `turning` on, and nothing of the task goes on meanwhile": """
        SELECT t.id, t.state, p.turning, s.id AS subtask, s.state AS subtask_state FROM task_progress p
        JOIN tasks t ON t.id = p.id LEFT JOIN subtasks s ON s.task_id = t.id AND p.turning > 0
            AND ((s.id >= p.turning AND (s.state = 'FAILED' OR (s.state = 'SUCCESSFUL' AND p.undoing IS NOT NULL)))
                OR s.state NOT IN ('PENDING', 'FAILED', 'SUCCESSFUL'))
        WHERE p.turning IS NOT NULL AND (s.id IS NOT NULL OR t.state NOT IN ('RUNNING', 'SUSPENDED')
            OR t.operation NOT IN ('RETRY', 'ROLLBACK') OR p.stopping IS NOT NULL)
    """,
    "`undoing` counts what is to be undone, `rollback_downstreams` what of it comes first": f"""
        SELECT p.id, p.undoing, c.n, NULL::bigint AS subtask FROM task_progress p JOIN LATERAL (
            SELECT count(*) AS n FROM subtasks s WHERE s.task_id = p.id AND {_TO_UNDO}
        ) c ON true WHERE p.undoing <> c.n
        UNION ALL
        SELECT p.id, u.rollback_downstreams, c.n, u.id FROM task_progress p JOIN subtasks u ON u.task_id = p.id
        JOIN LATERAL (
            SELECT count(*) AS n FROM subtask_edges e JOIN subtasks s ON s.id = e.downstream_id
            WHERE e.upstream_id = u.id AND {_TO_UNDO}
        ) c ON true
        WHERE p.undoing IS NOT NULL AND u.operation = 'ROLLBACK'
            AND (u.rollback_downstreams <> c.n OR (c.n > 0) <> (u.gate IS NOT DISTINCT FROM 'downstreams'))
    """,
    "nothing is undone before what follows it": """
        SELECT a.subtask_id, a.started_at, b.subtask_id AS downstream, b.finished_at
        FROM subtask_attempts a JOIN subtask_edges e ON e.upstream_id = a.subtask_id
        JOIN subtask_attempts b ON b.subtask_id = e.downstream_id AND b.operation = 'ROLLBACK'
        WHERE a.operation = 'ROLLBACK' AND a.started_at < b.finished_at
    """,
    "what is rolled back is PENDING in all its parts": """
        SELECT t.id, s.id, s.state FROM tasks t JOIN subtasks s ON s.task_id = t.id
        WHERE t.state = 'ROLLED_BACK' AND s.state <> 'PENDING'
    """,
    "no task left FAILED or was REVOKED without an operator who is recorded": """
        SELECT t.id, t.state, t.operation FROM tasks t
        WHERE (t.state = 'REVOKED' OR t.operation <> 'EXECUTE' OR t.abandoned)
            AND NOT EXISTS (SELECT FROM operations o WHERE o.task_id = t.id AND o.principal <> '')
    """,
    "a task is abandoned by an operator who is recorded, and then REVOKED": """
        SELECT t.id, t.state FROM tasks t WHERE t.abandoned <> EXISTS (
            SELECT FROM operations o WHERE o.task_id = t.id AND o.verb = 'abandon'
        ) OR (t.abandoned AND t.state <> 'REVOKED')
    """,
    "a task that has not started has nothing out": """
        SELECT t.id FROM tasks t JOIN task_progress p ON p.id = t.id
        WHERE t.state = 'CREATED' AND p.ready + p.running + p.canceling > 0
    """,
    "no more run at once than the task's limit": """
        SELECT id, running, canceling, concurrency FROM task_progress WHERE running + canceling > concurrency
    """,
    "the published status follows the state": """
        SELECT id, state, status FROM tasks WHERE status <> CASE state
            WHEN 'CREATED' THEN 0 WHEN 'RUNNING' THEN 1 WHEN 'SUSPENDED' THEN 1 WHEN 'SUCCESSFUL' THEN 2 ELSE 3 END
    """,
    "every task has its history, which agrees with it": """
        SELECT t.id, t.state, h.state AS history, h.error FROM tasks t LEFT JOIN sync_history h ON h.task_id = t.id
        WHERE (h.state, h.task_hex, h.account, h.task_type, h.extra, h.creator, h.error) IS DISTINCT FROM
            (t.state, t.task_id, t.account, t.task_type, t.extra,
            coalesce(t.header ->> 'X-Bkcmdb-User', t.header ->> 'BK_User', t.creator), t.error)
    """,
    "a failed task says what failed; another has no error": """
        SELECT id, state, error FROM tasks
        WHERE (state = 'FAILED' AND error IS NULL) OR (state IN ('SUCCESSFUL', 'RUNNING') AND error IS NOT NULL)
    """,
    "a settled task has freed its duplicate key": f"""
        SELECT id, state, duplicate_key FROM tasks WHERE state IN {_SETTLED} AND duplicate_key IS NOT NULL
    """,
    "an instance has one holder at most": """
        SELECT duplicate_key, count(*) FROM tasks WHERE duplicate_key IS NOT NULL GROUP BY 1 HAVING count(*) > 1
    """,
    "a claim number belongs to one process, and attempts follow one another in the order of theirs": """
        SELECT claim, count(DISTINCT (task_id, process)) FROM subtasks WHERE claim IS NOT NULL
        GROUP BY claim HAVING count(DISTINCT (task_id, process)) > 1
        UNION ALL
        SELECT a.claim, b.claim FROM subtask_attempts a JOIN subtask_attempts b USING (subtask_id)
        WHERE a.attempt < b.attempt AND a.claim >= b.claim
    """,
    "who is to have an instance for himself holds it or waits for it until he has settled": f"""
        SELECT id, state, instance_id FROM tasks WHERE on_duplicate = 'queue' AND instance_id IS NOT NULL
            AND state NOT IN {_SETTLED} AND duplicate_key IS NULL AND queued_key IS NULL
    """,
    "what waits for an instance has not begun and cannot start": f"""
        SELECT t.id, t.state, t.duplicate_key, p.open, p.opens_at FROM tasks t JOIN task_progress p ON p.id = t.id
        WHERE t.queued_key IS NOT NULL AND (t.state IN {_SETTLED} OR t.duplicate_key IS NOT NULL OR p.open
            OR p.opens_at IS NOT NULL OR p.pending <> t.subtask_count
            OR EXISTS (SELECT FROM subtasks s WHERE s.task_id = t.id AND s.starts > 0))
    """,
    "every task has its progress, every subtask its specification, and none is missing": """
        SELECT t.id, t.subtask_count, c.subtasks, c.specs FROM tasks t LEFT JOIN task_progress p ON p.id = t.id
        JOIN LATERAL (
            SELECT (SELECT count(*) FROM subtasks WHERE task_id = t.id) AS subtasks,
                (SELECT count(*) FROM subtasks s JOIN subtask_specs d ON d.id = s.id AND d.task_id = s.task_id
                    WHERE s.task_id = t.id) AS specs
        ) c ON true
        WHERE p.id IS NULL OR c.subtasks <> c.specs OR (t.subtask_count IS NOT NULL AND c.subtasks <> t.subtask_count)
    """,
    "what a subtask returned is there only where it has been successful": """
        SELECT r.subtask_id FROM subtask_results r WHERE NOT EXISTS (
            SELECT FROM subtask_attempts a WHERE a.subtask_id = r.subtask_id AND a.outcome = 'SUCCESSFUL')
            AND NOT EXISTS (SELECT FROM subtask_signals g WHERE g.subtask_id = r.subtask_id)
    """,
}


# One statement is one snapshot.
_ALL = text(
    "\nUNION ALL\n".join(
        f"(SELECT {place} AS promise, to_jsonb(broken) AS row FROM ({query}) AS broken LIMIT {_SHOWN})"
        for place, query in enumerate(PROMISES.values())
    )
)


def violations(engine: Engine) -> list[str]:
    """Return every broken promise with the rows that break it."""
    promises = list(PROMISES)
    with engine.connect() as connection:
        return [f"{promises[one.promise]}: {one.row}" for one in connection.execute(_ALL)]


_TASKS = text(
    """
SELECT t.id, t.state, p.change_number, coalesce((
    SELECT max(o.id) FROM operations o WHERE o.task_id = t.id AND o.principal <> '' AND o.from_state = 'FAILED'
        AND o.verb IN ('retry', 'rollback', 'skip', 'abandon')
), 0) AS verb, md5(concat_ws(' ', t.state, t.operation, t.finalized_at, t.error, t.abandoned, t.executor, (
    SELECT string_agg(concat_ws(' ', s.id, s.state, s.operation, s.attempt, s.failures, s.starts, s.generation, s.claim,
        s.gate, s.pending_upstreams, s.rollback_downstreams, s.finalized_at), ',' ORDER BY s.id)
    FROM subtasks s WHERE s.task_id = t.id
))) AS content
FROM tasks t JOIN task_progress p ON p.id = t.id
"""
)
_WRITTEN = text(
    """
SELECT 'attempt ' || concat_ws(' ', subtask_id, claim) AS name, md5(a::text) AS content FROM subtask_attempts a
UNION ALL SELECT 'operation ' || id, md5(o::text) FROM operations o
UNION ALL SELECT 'history of task ' || task_id, NULL FROM sync_history
"""
)


_LAST_WRITER = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")


class Watch:
    """Looks at the tables again and again, and remembers: for the promises that one snapshot cannot break too.

    Settled is settled: only a verb that is recorded changes a task that has FAILED, nothing changes one that ended
    otherwise. What was written into the history stays as it was written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: Mapping[int, RowMapping] = {}
        self._written: Mapping[str, str | None] = {}
        self._last_writer = ""

    def violations(self) -> list[str]:
        """Return every promise that is broken, by what the tables say or by what they said at the last look."""
        with self._engine.connect() as connection:
            before, self._last_writer = self._last_writer, connection.execute(_LAST_WRITER).scalar_one()
        return [] if before == self._last_writer else violations(self._engine) + self._changes()

    def _changes(self) -> list[str]:
        snapshot = self._engine.connect().execution_options(isolation_level="REPEATABLE READ")
        with snapshot as connection:
            tasks = {row["id"]: row for row in connection.execute(_TASKS).mappings()}
            written = {row.name: row.content for row in connection.execute(_WRITTEN)}
        broken = [
            *(f"settled is settled: {dict(one)}" for one in self._tasks.values() if _strays(one, tasks.get(one["id"]))),
            *(
                f"what changes counts: {dict(one)}"
                for one in self._tasks.values()
                if _is_silent(one, tasks.get(one["id"]))
            ),
            *(f"history cannot be forgotten: {name}" for name, _ in self._written.items() - written.items()),
        ]
        self._tasks, self._written = tasks, written
        return broken


def _strays(before: RowMapping, after: RowMapping | None) -> bool:
    """Tell whether a task that had settled is another one now, without a verb that may have done it."""
    if before["state"] not in _SETTLED or (after is not None and after["content"] == before["content"]):
        return False
    return after is None or before["state"] != "FAILED" or after["verb"] == before["verb"]


def _is_silent(before: RowMapping, after: RowMapping | None) -> bool:
    """Tell whether a task has changed and who waits for a change would not learn of it."""
    if after is None or after["content"] == before["content"]:
        return False
    changes: int = after["change_number"] - before["change_number"]
    return changes <= 0


def assert_invariants(engine: Engine) -> None:
    """Fail with every broken promise."""
    broken = violations(engine)
    assert not broken, "\n".join(broken)
