"""When a failed attempt is made again: which failures, and how long after. Pure; it takes its randomness."""

from collections.abc import Callable
from dataclasses import dataclass

from workers.failures import BadArgument, Cancelled, TimedOut

MAX_DELAY_SECONDS = 3600.0

_MAX_DOUBLINGS = 64  # beyond it any back-off has long reached the cap, and powers of two would overflow


@dataclass(frozen=True, slots=True)
class Retryable:
    """Which exceptions of a kind are worth another attempt: all but `never`, or only `only` where it is given."""

    only: tuple[type[BaseException], ...] = ()
    never: tuple[type[BaseException], ...] = ()

    def covers(self, error: BaseException) -> bool:
        """Tell whether this error may be followed by another attempt. A timeout counts as a `TimeoutError`."""
        if isinstance(error, (BadArgument, Cancelled)):
            return False
        raised = TimeoutError() if isinstance(error, TimedOut) else error
        return not isinstance(raised, self.never) and (not self.only or isinstance(raised, self.only))


def backoff_delay(backoff_seconds: float, *, failures: int, random: Callable[[], float]) -> float:
    """Return how long to wait after the given number of failures, the one just now included.

    Exponential with jitter: between `backoff_seconds` x 2^(failures-1) x 0.5 and x 1.5, at most an hour.

    Args:
        backoff_seconds: What the first wait is about.
        failures: At least 1.
        random: Returns a number from [0, 1).

    """
    doubled = backoff_seconds * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
    return min(MAX_DELAY_SECONDS, doubled * (0.5 + random()))
