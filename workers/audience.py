"""Whether anybody listens to Celery's events: asked by a worker's main process, known to its pool through shared memory.

While nobody does, pool processes do not even take notes. Who begins to listen says so by Celery's `heartbeat` command, as Flower
does; who does not is found within a second.
"""

import mmap
import threading

from structlog import get_logger

from schema.task_events import Send

_LOOK_SECONDS = 1.0
_log = get_logger("taskserver.worker")


class Audience:
    """Made in the main process before the pool forks; nobody listens until `start`."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)
        self._arrivals = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def listens(self) -> bool:
        """Tell whether somebody listens; in any process."""
        return self._memory[0] != 0

    def arrives(self) -> None:
        """Say that somebody may listen from now on."""
        if self._thread is not None:
            self._arrivals += 1
            self._memory[0] = 1

    def start(self, send: Send) -> None:
        """Begin to ask, in a thread of the main process."""
        self._thread = threading.Thread(target=self._run, args=(send,), name="audience", daemon=True)
        self.arrives()  # until the first answer
        self._thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._stopping.set()

    def _run(self, send: Send) -> None:
        while not self._stopping.is_set():
            arrivals = self._arrivals
            try:
                heard = send([])
                if heard or arrivals == self._arrivals:  # else the answer is older than who has arrived
                    self._memory[0] = heard > 0
            except Exception as error:  # noqa: BLE001 - whatever it is, subtasks run as well without being watched
                _log.info("cannot tell who listens", action="events", error=repr(error))
            self._stopping.wait(_LOOK_SECONDS)
