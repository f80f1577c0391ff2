"""The worker's main process: one beat a second with its live pool processes and what they hold.

Its thread does nothing else: a beat waits as long as PostgreSQL lets it.
"""

import threading
import time

from sqlalchemy import Engine
from structlog import get_logger

from schema.database import transaction
from schema.errors import Unavailable
from schema.transitions import registrations
from schema.transitions.registrations import Beat, WorkerInfo
from workers.slots import Slots

_log = get_logger("taskserver.worker")


class Heart:
    """A thread of the main process that beats until it is stopped."""

    def __init__(self, engine: Engine, slots: Slots, worker: WorkerInfo, *, seconds: float) -> None:
        self._engine = engine
        self._slots = slots
        self._worker = worker
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and say that the worker takes nothing any more."""
        self._stopping.set()
        self._thread.join()
        try:
            with transaction(self._engine) as connection:
                registrations.stop_worker(connection, self._worker.id)
        except Unavailable:
            _log.warning("PostgreSQL is away; silence will tell", action="stop", worker=self._worker.id)

    def _run(self) -> None:
        next_beat = time.monotonic()
        while not self._stopping.wait(max(0.0, next_beat - time.monotonic())):
            next_beat = time.monotonic() + self._seconds
            self._beat()

    def _beat(self) -> None:
        try:
            with transaction(self._engine) as connection:
                if not registrations.beat(connection, self._worker.id, self.listen()):
                    registrations.register_worker(connection, self._worker)
        except Unavailable as error:
            _log.warning("beat missed", action="beat", worker=self._worker.id, error=str(error))
        except Exception:  # noqa: BLE001 - a worker without a heart is taken for dead, and what it runs is run again
            _log.exception("beat failed", action="beat", worker=self._worker.id)

    def listen(self) -> Beat:
        """Return what the pool holds now."""
        held = [self._slots[index].read() for index in range(len(self._slots))]
        alive = [one for one in held if one.is_alive]
        return Beat(
            processes=[one.process for one in alive],
            claims=[one.claim for one in alive if one.claim],
            carriers=[one.carrier for one in alive if one.carrier],
            started=sum(self._slots[index].started for index in range(len(self._slots))),
        )
