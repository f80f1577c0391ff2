"""How long a transaction waits for another that is about to store the same instance, or has the same idempotency key.

A program may keep such a transaction open for as long as it likes. A server's connections are few, and who sends a request can
send it again: so a server waits a moment only.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

MOMENT_SECONDS = 2
_SHORTEN = text(f"SELECT set_config('lock_timeout', '{MOMENT_SECONDS}s', true)")
_RESTORE = text("SET LOCAL lock_timeout TO DEFAULT")  # what the connection was opened with


def wait_a_moment_only(connection: Connection) -> None:
    """Let every later wait of this transaction for a lock end after `MOMENT_SECONDS`, with `Busy`."""
    connection.execute(_SHORTEN)


@contextmanager
def waiting_a_moment_only(connection: Connection) -> Iterator[None]:
    """Let waits for locks end after `MOMENT_SECONDS` in the block, with `Busy`. For connections of our own."""
    connection.execute(_SHORTEN)
    yield
    connection.execute(_RESTORE)
