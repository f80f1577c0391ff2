"""Keeping a fault in one task from the others: what a look does task by task goes on with the next."""

from collections.abc import Iterator
from contextlib import contextmanager

from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from structlog.typing import FilteringBoundLogger

from schema.errors import Busy, Unavailable


@contextmanager
def isolated(log: FilteringBoundLogger, **about: object) -> Iterator[None]:
    """Run a block for one task: an outage ends the look, anything else is told of, and the next look tries again."""
    try:
        yield
    except Busy:
        log.info("task is busy", **about)
    except (Unavailable, RedisError, BrokerError):
        raise
    except Exception:
        log.exception("look failed for a task", **about)
