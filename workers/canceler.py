"""How the request to stop leaves the database: the worker's main process asks the handlers through shared memory.

It learns by NOTIFY at once, and by looking once a second in any case, because a notification may be missed. Whoever has not
stopped when the grace is over is killed with its process, like one that overran its timeout.
"""

import threading
import time
from collections.abc import Sequence

from sqlalchemy import Engine
from structlog import get_logger

from schema.database import transaction
from schema.errors import Unavailable
from schema.listening import Listener
from schema.transitions import cancellations, revocations
from schema.transitions.cancellations import CANCELING_CHANNEL
from schema.transitions.orders import Order
from workers.slots import Slots

_LOOK_SECONDS = 1.0
_STOPPING_LOOK_SECONDS = 0.1  # while something is to stop: what had not begun may begin
_log = get_logger("taskserver.worker")


class Canceler:
    """A thread of the main process that asks handlers to stop, until it is itself stopped."""

    def __init__(self, engine: Engine, slots: Slots, *, grace_seconds: float) -> None:
        self._engine = engine
        self._slots = slots
        self._grace_nanoseconds = int(grace_seconds * 1e9)
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

    def cancel(self, hex_ids: Sequence[str], *, actor: str) -> None:
        """Use the cancel verb on tasks and subtasks of any worker, in the name of `actor`.

        Raises:
            NotFound: One is neither a task nor a subtask; what came before it is cancelled.
            WrongState: A task has settled, or a subtask is not RUNNING; the same.
            Unavailable: PostgreSQL is away.

        """
        order = Order(actor, account=None, reason="revoked by remote control")
        for hex_id in hex_ids:
            with transaction(self._engine) as connection:
                revocations.revoke(connection, hex_id, order)

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
        for index, one in held.items():
            slot = self._slots[index]
            slot.note_stopping(one.claim if one.claim in claims else 0)
            if (one.claim, one.begun) in stopping and not slot.is_asked_to_stop(one.claim, one.begun):
                _log.info("asked to stop", action="cancel", subtask=one.begun, pid=one.pid)
                slot.ask_to_stop(one.claim, one.begun, time.monotonic_ns() + self._grace_nanoseconds)
        return bool(stopping)
