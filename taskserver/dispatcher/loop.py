"""The dispatcher: publishes what may start, and finds what was lost. Any number of servers run one, with no leader.

Woken by NOTIFY from the commit that made work startable; looks by itself every second, when a delay ends, and, while the
window holds something back, as soon as workers have taken messages.
"""

import threading
import time
from collections.abc import Callable

from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine
from structlog import get_logger

from schema.database import transaction
from schema.errors import Unavailable
from schema.settings import Settings
from schema.transitions import releases
from taskserver.dispatcher.advance import Advancer
from taskserver.dispatcher.rescue import Rescuer
from taskserver.dispatcher.window import Window

_LOOK_SECONDS = 1.0
_HELD_LOOK_SECONDS = 0.005
_OUTAGE_PAUSE_SECONDS = 0.5
_PAGE = 200
_PAGES = 50
_log = get_logger("taskserver.dispatcher")


class Dispatcher:
    """One thread that looks for work to publish until it is stopped."""

    def __init__(self, engine: Engine, app: Celery, redis: Redis, settings: Settings, *, name: str) -> None:
        window = Window(engine, redis, settings)
        self._engine = engine
        self._advancer = Advancer(engine, app, window, executor=name)
        self._rescuer = Rescuer(engine, redis, settings)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the look under way."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """Look now: something may start. Callable from any thread."""
        self._wake.set()

    def _run(self) -> None:
        next_look = time.monotonic()
        pause = 0.0
        while not self._stopping.is_set():
            self._wake.wait(pause)
            self._wake.clear()
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + _LOOK_SECONDS
                self._guarded(self._look)
            held = self._guarded(self._publish)
            pause = self._pause(next_look, held=held)

    def _guarded(self, step: Callable[[], bool]) -> bool | None:
        """Run a step; None when a server was away or the step failed, and the next look must do."""
        try:
            return step()
        except (Unavailable, RedisError, BrokerError) as error:
            self._rescuer.stalled()
            _log.warning("a server is away", action="dispatch", error=str(error))
        except Exception:  # noqa: BLE001 - without this thread the server would take tasks and start none
            _log.exception("dispatch failed", action="dispatch")
        self._stopping.wait(_OUTAGE_PAUSE_SECONDS)
        return None

    def _look(self) -> bool:
        with transaction(self._engine) as connection:
            releases.open_due_tasks(connection)
            due = releases.tasks_with_due_delays(connection, limit=_PAGE)
        for task in due:
            with transaction(self._engine) as connection:
                releases.end_delays(connection, task)
        self._rescuer.look()
        return False

    def _publish(self) -> bool:
        """Advance the tasks that wait, in their order, until the window is full; tell whether it held any back."""
        held = False
        for page in range(_PAGES):
            with transaction(self._engine) as connection:
                tasks = releases.tasks_with_startable(connection, limit=_PAGE, offset=page * _PAGE)
            published = 0
            for task in tasks:
                result = self._advancer.advance(task)
                published += result.published
                held = held or result.held
            if len(tasks) < _PAGE or not published:
                break
        return held

    def _pause(self, next_look: float, *, held: bool | None) -> float:
        if held:
            return _HELD_LOOK_SECONDS
        return max(0.0, next_look - time.monotonic())
