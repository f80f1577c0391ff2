"""Several statements in one round trip to PostgreSQL, in the caller's transaction.

For what is short and often done: most of its time would go into waiting for answers. The statements still run one after the
other, each on a snapshot of its own, so that what follows a lock sees what was committed before it. SQLAlchemy does not offer
this: on a connection that somebody else has made it is the driver's pipeline mode, on one of ours `schema.exchange`.

Also the one way to run a statement on a connection that somebody else has made: nothing that they may have set for their own
cursors and rows is used here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Connection, Dialect, RowMapping, TextClause
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

from schema.database import translate
from schema.errors import Unavailable
from schema.exchange import Statement, exchange

AnyConnection: TypeAlias = Connection | psycopg.Connection[Any]
Row = Mapping[str, Any] | RowMapping

_DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_NUMBERING: Dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Request:
    """One statement with its parameters."""

    statement: TextClause
    parameters: Mapping[str, Any]


def fetch_together(connection: AnyConnection, requests: Sequence[Request]) -> list[list[Row]]:
    """Run the statements in their order; return the rows of each.

    Raises:
        Unavailable: PostgreSQL is away, or another transaction was in the way.

    """
    if isinstance(connection, Connection):
        driver = connection.connection.driver_connection
        if not isinstance(driver, psycopg.Connection):
            return _fetch_one_by_one(connection, requests)
        if not connection.in_transaction():
            connection.begin()  # what SQLAlchemy has not seen begin it would not commit
    else:
        driver = connection
    cursors = [psycopg.Cursor(driver, row_factory=dict_row) for _ in requests]
    try:
        with driver.pipeline():
            for cursor, request in zip(cursors, requests, strict=True):
                cursor.execute(_sql(request.statement), request.parameters)
        return [list(cursor.fetchall()) if _has_rows(cursor) else [] for cursor in cursors]
    except psycopg.Error as error:
        if driver.broken and isinstance(connection, Connection):
            connection.invalidate(error)
        unavailable: Unavailable | None = translate(error, broken=driver.broken)
        if unavailable is not None:
            raise unavailable from error
        raise


def fetch_at_once(connection: Connection, requests: Sequence[Request]) -> list[list[dict[str, Any]]]:
    """Run the statements in their order, on a connection of `make_engine`; return the rows of each.

    Raises:
        Unavailable: PostgreSQL is away, or another transaction was in the way.

    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    if not connection.in_transaction():
        connection.begin()  # what SQLAlchemy has not seen begin it would not commit
    try:
        return exchange(driver, [(_numbered(one.statement), one.parameters) for one in requests])
    except psycopg.Error as error:
        if driver.broken:
            connection.invalidate(error)
        unavailable = translate(error, broken=driver.broken)
        if unavailable is not None:
            raise unavailable from error
        raise


@lru_cache(maxsize=64)
def _numbered(statement: TextClause) -> Statement:
    compiled = statement.compile(dialect=_NUMBERING)
    assert isinstance(compiled, SQLCompiler)
    return Statement(_on_one_line(str(compiled)), tuple(compiled.positiontup or ()))


def _on_one_line(sql: str) -> bytes:
    return " ".join(sql.split()).encode()


def _fetch_one_by_one(connection: Connection, requests: Sequence[Request]) -> list[list[Row]]:
    """Do the same through SQLAlchemy, for a caller's connection that is on another driver, or on an asynchronous one."""
    try:
        results = [connection.execute(one.statement, dict(one.parameters)) for one in requests]
        return [list(result.mappings()) if result.returns_rows else [] for result in results]
    except DBAPIError as error:
        unavailable = translate(error.orig, broken=error.connection_invalidated)
        if unavailable is not None:
            raise unavailable from error
        raise


def _has_rows(cursor: psycopg.Cursor[Row]) -> bool:
    """Tell whether the statement answers rows; the cursor's description would be built anew each time."""
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


@lru_cache(maxsize=64)
def _sql(statement: TextClause) -> bytes:
    """Return the text for the driver, which keeps what it has parsed only of texts below 4 KiB: hence no indentation."""
    return _on_one_line(str(statement.compile(dialect=_DIALECT)))
