"""How the read side talks to PostgreSQL: one statement on its own, or several on one snapshot.

A single statement needs no BEGIN and sees one snapshot by itself. Nothing here ever writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from schema.database import translate
from schema.errors import Unavailable


@contextmanager
def one_statement(engine: Engine) -> Iterator[Connection]:
    """Open a connection for a single SELECT.

    Raises:
        Unavailable: PostgreSQL is away, or all connections are in use.
    """
    with _reading(engine, "AUTOCOMMIT") as connection:
        yield connection


@contextmanager
def one_snapshot(engine: Engine) -> Iterator[Connection]:
    """Open a connection whose SELECTs all see the same state of the database.

    Raises:
        Unavailable: PostgreSQL is away, or all connections are in use.
    """
    with _reading(engine, "REPEATABLE READ") as connection:
        yield connection


@contextmanager
def _reading(engine: Engine, isolation: Literal["AUTOCOMMIT", "REPEATABLE READ"]) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection.execution_options(isolation_level=isolation)
    except PoolTimeoutError as error:
        raise Unavailable("all database connections are in use; the call can be made again") from error
    except DBAPIError as error:
        unavailable = translate(error.orig, broken=error.connection_invalidated)
        if unavailable is not None:
            raise unavailable from error
        raise
