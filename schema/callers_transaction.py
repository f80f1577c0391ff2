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

from schema.errors import InvalidArgument
from schema.roundtrip import AnyConnection, Request, fetch_together

_TAKEN = "a SQLAlchemy Connection or Session on PostgreSQL, or a psycopg.Connection"
# Where our tables are, whatever the caller's own path leads to first; the temporary tables come last.
_PATHS = text(
    """
SELECT current_setting('search_path') AS theirs, format('%I, pg_temp', n.nspname) AS ours
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'subtask_specs' AND c.relkind = 'r'
ORDER BY pg_table_is_visible(c.oid) DESC, n.nspname = 'public' DESC LIMIT 1
"""
)
_TAKE_PATH = text("SELECT set_config('search_path', :path, true)")


@contextmanager
def part_of_transaction(connection: object) -> Iterator[AnyConnection]:
    """Run a block in the caller's transaction, which is begun where their connection would begin one at its next statement.

    When the block raises, what it did is undone and the transaction can go on.

    Raises:
        TypeError: It is no connection that can be used.
        InvalidArgument: It commits each statement on its own, or it leads to another database.
        Unavailable: PostgreSQL is away.

    """
    usable = _usable(connection)
    [paths] = fetch_together(usable, [Request(_PATHS, {})])
    if not paths:
        raise InvalidArgument(
            "the connection leads to a database without the tables of taskserver: connect to that of"
            " TASKSERVER_DATABASE_URL, or run `taskserver migrate` on this one"
        )
    with _savepoint(usable):
        fetch_together(usable, [Request(_TAKE_PATH, {"path": paths[0]["ours"]})])
        yield usable
        fetch_together(usable, [Request(_TAKE_PATH, {"path": paths[0]["theirs"]})])


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
