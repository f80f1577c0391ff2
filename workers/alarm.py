"""A handler's timeout: SIGALRM raises in the main thread of the pool process, where handlers run.

It cannot stop code that holds the interpreter, nor a handler that swallows it: those the worker's main process kills.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from workers.failures import TimedOut


@contextmanager
def alarm(seconds: float | None) -> Iterator[None]:
    """Raise `TimedOut` in the block when it takes longer than that; None is no limit."""
    if seconds is None:
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TimedOut(f"the attempt took longer than its timeout of {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
