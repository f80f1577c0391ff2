"""Ending pool processes that overran: a handler past its timeout, or past its grace when it was asked to stop, is killed here.

Code that holds the interpreter stops no other way. Whoever was asked and has not stopped shortly before the grace is over is
interrupted first (`workers.alarm`), so that it can clean up. All this needs nothing but the shared memory: PostgreSQL may hang,
and whoever waits for it in this process holds up no kill. The attempt is recorded by the process that takes the dead one's place.
"""

import threading
from contextlib import suppress

from structlog import get_logger

from workers.alarm import ring
from workers.descendants import kill_with_descendants
from workers.slots import Slots

_LOOK_SECONDS = 0.2  # how late a process that overran may be killed
_CLEANING_SECONDS = 2.0  # from the interruption to the kill, as after a timeout; at most half of the grace
_log = get_logger("taskserver.worker")


class Killer:
    """A thread of the main process that kills what overran, until it is stopped."""

    def __init__(self, slots: Slots, *, grace_seconds: float) -> None:
        self._slots = slots
        self._cleaning_nanoseconds = int(min(_CLEANING_SECONDS, grace_seconds / 2) * 1e9)
        self._ended = [0] * len(slots)  # the process that was killed last in each place
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - without this thread nothing would end what does not stop by itself
                _log.exception("look failed", action="kill")

    def look(self) -> None:
        """Interrupt what has little time left, and kill what has overrun, each process once.

        A dead one's place says what it said until another process takes it, which waits for PostgreSQL. That may be long
        enough for a stranger to get the pid.
        """
        for index in range(len(self._slots)):
            slot = self._slots[index]
            held = slot.read()
            if held.process == self._ended[index] or not held.is_alive:
                continue
            if held.overran:
                slot.note_kill(held.process, held.begun)
                _log.warning("killing a process past its time", action="kill", pid=held.pid, subtask=held.begun)
                kill_with_descendants(held.pid)
                self._ended[index] = held.process
            elif held.is_stubborn(self._cleaning_nanoseconds):
                # Each time anew: it works once in an attempt, and one that is only about to begin may have missed it.
                with suppress(ProcessLookupError):
                    ring(held.pid)
