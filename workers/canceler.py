"""How the request to stop leaves the database: the worker's main process asks the handlers through shared memory.

It learns by NOTIFY at once, and by looking once a second in any case, because a notification may be missed. What becomes of
those that do not stop is in `workers.killer`.
"""

import threading
import time
from collections.abc import Sequence

from sqlalchemy import Engine
from structlog import get_logger

from schema.database import transaction
from schema.errors import Unavailable
from schema.identity import SubtaskId, TaskId
from schema.listening import Listener
from schema.transitions import cancellations, unbegun
from schema.transitions.cancellations import CANCELING_CHANNEL, Stopping
from workers.slots import Held, Slots

_LOOK_SECONDS = 1.0
_STOPPING_LOOK_SECONDS = 0.1  # while something is to stop: what had not begun may begin
# In that time a process ends by itself what has not begun, unless a handler holds its interpreter.
_PATIENCE_SECONDS = 1.0
_log = get_logger("taskserver.worker")


class Canceler:
    """A thread of the main process that asks handlers to stop, until it is itself stopped."""

    def __init__(self, engine: Engine, slots: Slots, *, grace_seconds: float) -> None:
        self._engine = engine
        self._slots = slots
        self._grace_nanoseconds = int(grace_seconds * 1e9)
        self._behind: dict[tuple[int, SubtaskId], float] = {}  # what waits behind a handler, and since when
        self._relieved: set[int] = set()  # claims of which something was ended for the process
        self._wake = threading.Event()
        self._stopping = threading.Event()
        url = engine.url.render_as_string(hide_password=False)
        self._listener = Listener(url, {CANCELING_CHANNEL: lambda _: self._wake.set()})
        self._thread = threading.Thread(target=self._run, name="canceler", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._listener.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self._listener.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()  # before looking: what comes after it must not be forgotten
            self._wake.wait(_STOPPING_LOOK_SECONDS if self._guarded_look() else _LOOK_SECONDS)

    def _guarded_look(self) -> bool:
        try:
            return self.look()
        except Unavailable as error:
            _log.info("cannot look for what is to stop", action="cancel", error=str(error))
        except Exception:  # noqa: BLE001 - without this thread nothing could be cancelled here
            _log.exception("look failed", action="cancel")
        return False

    def look(self) -> bool:
        """Ask what is to stop and runs here; tell whether there was anything."""
        held = {index: self._slots[index].read() for index in range(len(self._slots))}
        with transaction(self._engine) as connection:
            found = cancellations.asked_to_stop(connection, [one.process for one in held.values() if one.process])
        stopping = {(one.claim, one.id) for one in found}
        claims = {one.claim for one in found}
        self._relieved &= {one.claim for one in held.values()}
        for index, one in held.items():
            slot = self._slots[index]
            slot.note_stopping(one.claim if one.claim in claims | self._relieved else 0)
            if (one.claim, one.begun) in stopping and not slot.is_asked_to_stop(one.claim, one.begun):
                _log.info("asked to stop", action="cancel", subtask=one.begun, pid=one.pid)
                slot.ask_to_stop(one.claim, one.begun, time.monotonic_ns() + self._grace_nanoseconds)
        self._relieve(found)
        return bool(stopping)

    def _relieve(self, found: Sequence[Stopping]) -> None:
        """End what is to stop and waits behind a handler that does not let its process speak.

        Its process has been told by now that something of the claim is to stop, and asks before it begins another; what it
        holds is read after that. So either it is seen to have begun, or it will learn that it has been ended.
        """
        now = time.monotonic()
        held = [self._slots[index].read() for index in range(len(self._slots))]
        behind = {
            (one.claim, each.id): one
            for each in found
            for one in held
            if one.claim == each.claim and one.stopping == each.claim and one.kill_at and 0 < one.begun < each.id
        }
        self._behind = {key: self._behind.get(key, now) for key in behind}
        for (claim, subtask), one in behind.items():
            if now - self._behind[claim, subtask] >= _PATIENCE_SECONDS:
                self._end(subtask, one)

    def _end(self, subtask: SubtaskId, one: Held) -> None:
        self._relieved.add(one.claim)  # whether or not the commit is answered
        with transaction(self._engine) as connection:
            ended = unbegun.end_unbegun(
                connection, TaskId(one.task), [subtask], claim=one.claim, process=one.process, carrier=one.carrier
            )
        if ended:
            _log.info("ended before it began", action="cancel", subtask=subtask, pid=one.pid)
