"""What interrupts a handler: SIGALRM raises in the main thread of the pool process, where handlers run.

The timer rings when the timeout is over; the worker's main process rings when a handler was asked to stop, goes on, and will
soon be killed. So its `finally` blocks can run. What cannot be stopped like this, because it holds the interpreter or swallows
what is raised, the main process kills. It is raised once in an attempt, and never outside one.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from workers.failures import Cancelled, TimedOut


def ring(pid: int) -> None:
    """Let the process look whether the handler that works there is to be interrupted; any other is left alone.

    Raises:
        ProcessLookupError: There is no such process.

    """
    os.kill(pid, signal.SIGALRM)


@contextmanager
def alarm(seconds: float | None, is_asked_to_stop: Callable[[], bool]) -> Iterator[None]:
    """Raise in the block when it takes longer than that (None is no limit), or somebody rings and it is asked to stop.

    Raises:
        TimedOut: The time was up.
        Cancelled: It had been asked to stop.

    """
    if seconds is None and threading.current_thread() is not threading.main_thread():
        yield  # where no signal is handled
        return
    ends = None if seconds is None else time.monotonic() + seconds

    def look(_number: int, _frame: FrameType | None) -> None:
        if is_asked_to_stop():
            _disarm()
            raise Cancelled("the attempt was asked to stop, did not, and was interrupted")
        left = None if ends is None else ends - time.monotonic()
        if left is None:
            return
        if left > 0:
            signal.setitimer(signal.ITIMER_REAL, left)
            return
        _disarm()
        raise TimedOut(f"the attempt took longer than its timeout of {seconds:g} s")

    signal.signal(signal.SIGALRM, look)
    if seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        _disarm()


def ignore_rings() -> None:
    """Let a ring outside of an attempt do nothing; a process says so before anybody can know it, because it would end it."""
    signal.signal(signal.SIGALRM, _ignore)


def _disarm() -> None:
    ignore_rings()
    signal.setitimer(signal.ITIMER_REAL, 0)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Take a ring that nobody waits for: SIG_IGN would be inherited by programs that a handler starts."""
