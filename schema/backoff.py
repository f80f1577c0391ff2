"""How long to wait before a failed attempt is made again. Pure; it takes its randomness."""

from collections.abc import Callable

MAX_DELAY_SECONDS = 3600.0

_MAX_DOUBLINGS = 64  # beyond it any back-off has long reached the cap, and powers of two would overflow


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
