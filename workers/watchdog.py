"""Notices when a slice's subtask takes long, so that the rest of the slice can go to others.

One thread for each pool process, asleep unless a slice is at work. The runner only writes a time; the thread looks.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from structlog import get_logger

_LOOKS_PER_LIMIT = 5
_log = get_logger("taskserver.worker")


class Watchdog:
    """Calls the unit's `give_way` once, when a subtask has run longer than the limit."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._due = float("inf")
        self._give_way: Callable[[], None] | None = None
        self._active = threading.Event()
        self._busy = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, give_way: Callable[[], None], *, enabled: bool) -> Iterator[None]:
        """Watch while the block runs; on leaving, a `give_way` under way has ended."""
        if not enabled:
            yield
            return
        self._start()
        self._due = float("inf")
        self._give_way = give_way
        self._active.set()
        try:
            yield
        finally:
            self._active.clear()
            with self._busy:
                self._give_way = None

    def begin(self, *, may_give_way: bool) -> None:
        """Say that a subtask begins."""
        self._due = time.monotonic() + self._limit if may_give_way else float("inf")

    def end(self) -> None:
        """Say that no subtask is at work; a `give_way` under way has ended then."""
        with self._busy:
            self._due = float("inf")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while self._active.wait():
            pause.wait(self._limit / _LOOKS_PER_LIMIT)
            if time.monotonic() < self._due:
                continue
            with self._busy:
                if self._give_way is None or time.monotonic() < self._due:
                    continue
                self._due = float("inf")
                try:
                    self._give_way()
                except Exception:  # noqa: BLE001 - the unit runs on as it is; what it holds stays listed in the beat
                    _log.exception("could not give way", action="give_way")
