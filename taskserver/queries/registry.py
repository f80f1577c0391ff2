"""What workers have registered: the kinds of work, and themselves."""

from sqlalchemy import Engine, text

from taskserver.projection import wire_time
from taskserver.queries.reading import one_statement
from taskserver.views.registry import Kind, Kinds, Worker, Workers

_KINDS = text(
    """
SELECT name, description, arguments_schema, result_schema, queue, timeout, max_attempts, backoff_seconds, isolated,
    has_rollback, prohibit_rollback, on_worker_lost, code_version, registered_at AS register_time
FROM kinds ORDER BY name
"""
)
_WORKERS = text(
    """
SELECT id, name, host, pid, queues, concurrency, cardinality(processes) AS processes, cardinality(claims) AS claims,
    started, kinds, code_version, started_at AS start_time, beat_at AS beat_time, stopped_at AS stop_time,
    stopped_at IS NULL AND beat_at > now() - :silence * interval '1 second' AS alive
FROM workers WHERE beat_at > now() - interval '1 hour' ORDER BY id DESC LIMIT 2000
"""
)


def registered_kinds(engine: Engine) -> Kinds:
    """Return all kinds."""
    with one_statement(engine) as connection:
        rows = connection.execute(_KINDS).mappings().all()
    return Kinds(contents=[Kind(**{**row, "register_time": wire_time(row["register_time"])}) for row in rows])


def known_workers(engine: Engine, *, silence_seconds: float) -> Workers:
    """Return the workers of the last hour, the newest first; alive are those heard of within the silence."""
    with one_statement(engine) as connection:
        rows = connection.execute(_WORKERS, {"silence": silence_seconds}).mappings().all()
    times = ("start_time", "beat_time", "stop_time")
    return Workers(contents=[Worker(**{**row, **{name: wire_time(row[name]) for name in times}}) for row in rows])
