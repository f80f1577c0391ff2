"""Several statements in one round trip to PostgreSQL, in the caller's transaction.

For the steps of a worker, which are short and follow each other: most of their time would go into waiting for answers. The
statements still run one after the other, each on a snapshot of its own, so that what follows a lock sees what was committed
before it. Uses the driver's pipeline mode, which SQLAlchemy does not offer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Connection, Dialect, RowMapping, TextClause

from schema.database import translate
from schema.errors import Unavailable

Row = Mapping[str, Any] | RowMapping


@dataclass(frozen=True, slots=True)
class Request:
    """One statement with its parameters."""

    statement: TextClause
    parameters: Mapping[str, Any]


def fetch_together(connection: Connection, requests: Sequence[Request]) -> list[list[Row]]:
    """Run the statements in their order; return the rows of each.

    Raises:
        Unavailable: PostgreSQL is away, or another transaction was in the way.

    """
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    cursors = [driver.cursor(row_factory=dict_row) for _ in requests]
    try:
        with driver.pipeline():
            for cursor, request in zip(cursors, requests, strict=True):
                cursor.execute(_sql(request.statement, connection.dialect), request.parameters)
        return [list(cursor.fetchall()) if _has_rows(cursor) else [] for cursor in cursors]
    except psycopg.Error as error:
        if driver.broken:
            connection.invalidate(error)
        unavailable: Unavailable | None = translate(error, broken=driver.broken)
        if unavailable is not None:
            raise unavailable from error
        raise


def _has_rows(cursor: psycopg.Cursor[Row]) -> bool:
    """Tell whether the statement answers rows; the cursor's description would be built anew each time."""
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


@lru_cache(maxsize=64)
def _sql(statement: TextClause, dialect: Dialect) -> bytes:
    """Return the text for the driver, which keeps what it has parsed only of texts below 4 KiB: hence no indentation."""
    return " ".join(str(statement.compile(dialect=dialect)).split()).encode()
