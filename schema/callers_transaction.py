"""A part of a transaction that somebody else has begun: all of it is undone, or all of it is theirs to commit.

Takes their connection as it is. What they may have set on it (row factories, a search path, a pipeline, a driver of their own)
neither matters here nor is changed by it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, text

from schema.errors import Busy, InvalidArgument
from schema.roundtrip import AnyConnection, Request, fetch_together

_TAKEN = "a SQLAlchemy Connection or Session on PostgreSQL, or a psycopg.Connection"
MOST_WAITING = "20s"
# Where our tables are, whatever the caller's own path leads to first; the temporary tables come last. And how long we wait for a
# lock: no longer than they would.
_SETTINGS = text(
    """
SELECT current_setting('search_path') AS their_path, format('%I, pg_temp', n.nspname) AS our_path,
    current_setting('lock_timeout') AS their_waiting,
    CASE WHEN current_setting('lock_timeout')::interval BETWEEN '1 ms' AND CAST(CAST(:most AS text) AS interval)
        THEN current_setting('lock_timeout') ELSE CAST(:most AS text) END AS our_waiting
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'subtask_specs' AND c.relkind = 'r'
ORDER BY pg_table_is_visible(c.oid) DESC, n.nspname = 'public' DESC LIMIT 1
"""
)
_SET = text("SELECT set_config('search_path', :path, true), set_config('lock_timeout', :waiting, true)")
_STALE_SNAPSHOT = "40001"


@contextmanager
def part_of_transaction(connection: object) -> Iterator[AnyConnection]:
    """Run a block in the caller's transaction, which is begun where their connection would begin one at its next statement.

    When the block raises, what it did is undone and the transaction can go on.

    Raises:
        TypeError: It is no connection that can be used.
        InvalidArgument: It commits each statement on its own, or it leads to another database.
        Busy: Another transaction was in the way, for `MOST_WAITING` or as long as the caller's own `lock_timeout` if shorter.
        Unavailable: PostgreSQL is away.

    """
    usable = _usable(connection)
    [found] = fetch_together(usable, [Request(_SETTINGS, {"most": MOST_WAITING})])
    if not found:
        raise InvalidArgument(
            "the connection leads to a database without the tables of taskserver: connect to that of"
            " TASKSERVER_DATABASE_URL, or run `taskserver migrate` on this one"
        )
    [settings] = found
    with _stale_snapshots_told(), _savepoint(usable):
        fetch_together(usable, [Request(_SET, {"path": settings["our_path"], "waiting": settings["our_waiting"]})])
        yield usable
        fetch_together(usable, [Request(_SET, {"path": settings["their_path"], "waiting": settings["their_waiting"]})])


@contextmanager
def _stale_snapshots_told() -> Iterator[None]:
    """Say what helps where the transaction cannot see what another has committed since it began, however often it tries."""
    try:
        yield
    except Busy as error:
        cause = error.__cause__
        if getattr(getattr(cause, "orig", cause), "sqlstate", None) != _STALE_SNAPSHOT:
            raise
        raise Busy(
            "another transaction has committed the same instance or idempotency key since this one began, which its isolation"
            " hides: roll this transaction back, begin a new one, and submit again in that"
        ) from error


def _savepoint(connection: AnyConnection) -> AbstractContextManager[object]:
    """Return a savepoint by the driver's own means: a rollback that it does not see upsets what it has prepared."""
    return connection.begin_nested() if isinstance(connection, Connection) else connection.transaction()


def _usable(given: object) -> AnyConnection:
    # A session of the ORM is known by its method, so that nobody who has none must import the ORM.
    if not isinstance(given, psycopg.Connection) and not hasattr(given, "run_sync"):
        connection = getattr(given, "connection", None)
        if not isinstance(given, Connection) and callable(connection):
            given = connection()
    match given:
        case Connection() if given.dialect.name == "postgresql":
            return _lasting(given)
        case psycopg.Connection():
            return _open(given)
        case Connection():
            raise TypeError(f"the connection leads to {given.dialect.name}: give {_TAKEN}")
        case psycopg.AsyncConnection():
            raise TypeError(
                "a psycopg.AsyncConnection cannot be used: give a psycopg.Connection, or SQLAlchemy's async one"
            )
        case _ if hasattr(given, "run_sync"):
            raise TypeError(
                f"{type(given).__name__} is asynchronous: call `await connection.run_sync(submit, spec)`, or the same of a session"
            )
        case _:
            raise TypeError(f"a {type(given).__name__} is no connection: give {_TAKEN}")


def _lasting(connection: Connection) -> Connection:
    if connection.dialect.detect_autocommit_setting(connection.connection.dbapi_connection):  # type: ignore[arg-type]
        raise _in_pieces("use one without isolation_level AUTOCOMMIT")
    return connection


def _open(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    if connection.closed:
        raise InvalidArgument("the connection is closed: open a new one")
    if connection.autocommit:
        if connection.pgconn.pipeline_status:
            with connection.pipeline():
                """What is under way, perhaps a BEGIN, has arrived when this ends."""
        if connection.info.transaction_status == TransactionStatus.IDLE:
            raise _in_pieces("open one with `with connection.transaction():`")
    return connection


def _in_pieces(cure: str) -> InvalidArgument:
    return InvalidArgument(
        f"the connection commits each statement on its own, so that the task would be stored in pieces: begin a transaction"
        f" ({cure})"
    )
