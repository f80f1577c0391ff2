"""Connections to PostgreSQL: the engine factory and the one way to open a transaction."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from schema.errors import Busy, Unavailable
from schema.exchange import forget_prepared

# A server that is gone without a word is noticed within half a minute.
KEEPALIVE: Mapping[str, int] = MappingProxyType(
    {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
)
_REST_SECONDS = 2.0
_SESSION_OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "timezone": "UTC",
        "jit": "off",
        "lock_timeout": "20s",
        "idle_in_transaction_session_timeout": "60s",
    }.items()
)


# For who finds every row by its id: a plan made while the tables were small, or nothing was known of them yet, is kept until
# they are next analyzed, and must not read a whole table by then.
_BY_ID_OPTIONS = f"{_SESSION_OPTIONS} -c enable_seqscan=off"


def make_engine(url: str, *, name: str, pool_size: int = 5, by_id: bool = False) -> Engine:
    """Return an engine for one process; connections are opened at first use and checked after a pause.

    Args:
        url: `postgresql+psycopg://…`.
        name: Shown in `pg_stat_activity`.
        pool_size: The most connections this process holds.
        by_id: Whether all that is hot there finds its rows by their ids, as in a worker.

    """
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        connect_args={
            **KEEPALIVE,
            "application_name": name,
            "options": _BY_ID_OPTIONS if by_id else _SESSION_OPTIONS,
            "prepare_threshold": 2,
        },
    )
    event.listen(engine, "rollback", _forget_prepared)
    event.listen(engine, "checkin", _note_rest)
    event.listen(engine, "checkout", _check_rested)
    return engine


def _forget_prepared(connection: Connection) -> None:
    driver = None if connection.invalidated else connection.connection.driver_connection
    if driver is not None:
        forget_prepared(driver)


def _note_rest(_connection: Any, record: Any) -> None:
    record.info["rests_since"] = time.monotonic()


def _check_rested(connection: Any, record: Any, _proxy: Any) -> None:
    """Ask a connection that rested for a while whether its server is still there, rather than at every use.

    It commits, because at a rollback the driver forgets all that it has prepared, and every statement would be planned anew.
    """
    if time.monotonic() - record.info.get("rests_since", math.inf) < _REST_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.commit()
    except psycopg.OperationalError as error:
        raise DisconnectionError from error


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Open a READ COMMITTED transaction; commit at the end, roll back on any error.

    Raises:
        Unavailable: PostgreSQL is away. Whether a commit under way took place is then unknown.

    """
    try:
        with engine.begin() as connection:
            yield connection
    except PoolTimeout as error:
        raise Unavailable("all connections to PostgreSQL are in use; the call can be made again") from error
    except DBAPIError as error:
        unavailable = translate(error.orig, broken=error.connection_invalidated)
        if unavailable is not None:
            raise unavailable from error
        raise


def translate(error: BaseException | None, *, broken: bool) -> Unavailable | None:
    """Return what the driver's error means to callers; None when the statement itself is wrong.

    Args:
        error: What the driver raised.
        broken: Whether the connection is of no use any more.

    """
    state = getattr(error, "sqlstate", None)
    if broken or (isinstance(error, psycopg.OperationalError) and state in _OUTAGE_STATES):
        return Unavailable("PostgreSQL does not answer; the call can be made again")
    if state in _CONFLICT_STATES:
        return Busy("another transaction was in the way; the call can be made again")
    return None


# No state at all: the connection could not be made. 57P0x: shutdown, crash, still starting. 53300: too many clients.
_OUTAGE_STATES = {None, "57P01", "57P02", "57P03", "53300", "08000", "08001", "08003", "08006"}
_CONFLICT_STATES = {"40001", "40P01", "55P03"}  # serialisation failure, deadlock, lock timeout
