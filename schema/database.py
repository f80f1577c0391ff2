"""Connections to PostgreSQL: the engine factory and the one way to open a transaction."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from schema.errors import Unavailable

_SESSION_OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "timezone": "UTC",
        "jit": "off",
        "lock_timeout": "20s",
        "idle_in_transaction_session_timeout": "60s",
    }.items()
)


def make_engine(url: str, *, name: str, pool_size: int = 5) -> Engine:
    """Return an engine for one process; connections are opened at first use and checked after a pause.

    Args:
        url: `postgresql+psycopg://…`.
        name: Shown in `pg_stat_activity`.
        pool_size: The most connections this process holds.

    """
    return create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={
            "application_name": name,
            "options": _SESSION_OPTIONS,
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "prepare_threshold": 2,
        },
    )


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
        if is_outage(error):
            raise Unavailable("PostgreSQL does not answer; the call can be made again") from error
        raise


def is_outage(error: DBAPIError) -> bool:
    """Tell whether the error means that the server is away, rather than that the statement is wrong."""
    return error.connection_invalidated or (
        isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) in _OUTAGE_STATES
    )


# No state at all: the connection could not be made. 57P0x: shutdown, crash, still starting. 53300: too many clients.
_OUTAGE_STATES = {None, "57P01", "57P02", "57P03", "53300", "08000", "08001", "08003", "08006"}
