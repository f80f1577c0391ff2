"""How many streams of events one server process keeps open: each holds a connection, and what its client has not taken.

Counted in the event loop alone.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from schema.errors import RateLimited


class OpenStreams:
    """The streams of one process, by principal."""

    def __init__(self, *, most: int, most_each: int) -> None:
        """Count up to so many in all, and up to so many for each principal."""
        self._most = most
        self._most_each = most_each
        self._open: Counter[str] = Counter()

    @contextmanager
    def one_more(self, principal: str) -> Iterator[None]:
        """Count a stream for the block.

        Raises:
            RateLimited: There are as many as there may be.

        """
        if self._open[principal] >= self._most_each:
            raise _too_many(f"{principal} follows {self._most_each}", "TASKSERVER_MAX_STREAMS_PER_PRINCIPAL")
        if self._open.total() >= self._most:
            raise _too_many(f"this server has {self._most}", "TASKSERVER_MAX_STREAMS")
        self._open[principal] += 1
        try:
            yield
        finally:
            self._open[principal] -= 1
            if not self._open[principal]:
                del self._open[principal]


def _too_many(there_are: str, setting: str) -> RateLimited:
    return RateLimited(
        f"{there_are} streams of events already, which is the most ({setting} sets it): close one, or ask …/status with"
        " waitSeconds, or for the log with after="
    )
