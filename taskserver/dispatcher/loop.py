"""The dispatcher: publishes what may start, and finds what was lost. Any number of servers run one, with no leader.

Woken by NOTIFY from the commit that made work startable; looks by itself every second, when a delay ends, and, while the
window holds something back, as soon as workers have taken messages.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine
from structlog import get_logger

from schema.database import transaction
from schema.errors import Busy, Unavailable
from schema.identity import TaskId
from schema.settings import Settings
from schema.transitions import cancellations, releases
from taskserver import canvas
from taskserver.dispatcher.advance import Advancer
from taskserver.dispatcher.isolation import isolated
from taskserver.dispatcher.rescue import Rescuer
from taskserver.dispatcher.telling import Teller
from taskserver.dispatcher.upkeep import Upkeep
from taskserver.dispatcher.window import Window

_LOOK_SECONDS = 1.0
_HELD_LOOK_SECONDS = 0.005
_OUTAGE_PAUSE_SECONDS = 0.5
_PAGE = 200
_MOST_TASKS = 10_000
_PORTION_TASKS = 25
_PORTION_SUBTASKS = 1_000
_SHORTEST_LOOK_SECONDS = 0.02
_HEAD_START_SECONDS = 0.05
_log = get_logger("taskserver.dispatcher")
_T = TypeVar("_T")


class Dispatcher:
    """One thread that looks for work to publish until it is stopped."""

    def __init__(self, engine: Engine, app: Celery, redis: Redis, settings: Settings, *, name: str) -> None:
        self._window = Window(engine, redis, settings)
        self._engine = engine
        self._advancer = Advancer(engine, partial(canvas.publish, app), self._window, executor=name)
        self._rescuer = Rescuer(engine, redis, settings, tell=Teller(engine, app, settings).tell)
        self._upkeep = Upkeep(engine)
        self._next_rescue = 0.0
        self._passes = threading.Condition()
        self._begun = 0
        self._ended = 0
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

    def publish_soon(self) -> None:
        """Look now, and wait until that look has ended, but a moment at most.

        For who goes on with work in the same interpreter: the workers can begin in the meantime.
        """
        with self._passes:
            wanted = self._begun + 1
            self._wake.set()
            self._passes.wait_for(lambda: self._ended >= wanted, timeout=_HEAD_START_SECONDS)

    def _run(self) -> None:
        next_look = time.monotonic()
        while not self._stopping.is_set():
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + (self._guarded(self._look) or _LOOK_SECONDS)
            self._begun += 1
            full = self._guarded(self._publish) or frozenset()
            with self._passes:
                self._ended = self._begun
                self._passes.notify_all()
            self._await_work(full, until=next_look)

    def _guarded(self, step: Callable[[], _T]) -> _T | None:
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

    def _look(self) -> float:
        """Start what time has brought, find what was lost; return how long until the next look."""
        with transaction(self._engine) as connection:
            releases.open_due_tasks(connection)
            due = releases.tasks_with_due_delays(connection, limit=_PAGE)
        for task in due:
            with isolated(_log, action="delay", task=task), transaction(self._engine) as connection:
                releases.end_delays(connection, task)
        self._expire_overdue()
        if time.monotonic() >= self._next_rescue:
            self._next_rescue = time.monotonic() + _LOOK_SECONDS
            self._rescuer.look()
            self._upkeep.look()
        if self._upkeep.turn():
            return _SHORTEST_LOOK_SECONDS
        with transaction(self._engine) as connection:
            next_delay = releases.seconds_to_next_delay(connection)
        if next_delay is None:
            return _LOOK_SECONDS
        return min(_LOOK_SECONDS, max(_SHORTEST_LOOK_SECONDS, next_delay))

    def _expire_overdue(self) -> None:
        with transaction(self._engine) as connection:
            overdue = cancellations.overdue_tasks(connection, limit=_PAGE)
        for task in overdue:
            with isolated(_log, action="expire", task=task), transaction(self._engine) as connection:
                cancellations.expire(connection, task)

    def _publish(self) -> frozenset[str]:
        """Advance the tasks that wait, in their order, until the window is full; return the queues that held some back."""
        self._window.measure()
        full = self._window.full()
        looked: set[TaskId] = set()
        while len(looked) < _MOST_TASKS:
            with transaction(self._engine) as connection:
                tasks = releases.tasks_with_startable(connection, limit=_PAGE, full_queues=full, but=looked)
            for together in _portions(tasks):
                full |= self._advance(together)
            looked.update(tasks)
            if len(tasks) < _PAGE:
                break
        return full

    def _advance(self, tasks: Sequence[TaskId]) -> frozenset[str]:
        """Advance some tasks; a fault in one does not keep the others waiting."""
        try:
            return self._advancer.advance(tasks).full
        except Busy:
            if len(tasks) == 1:
                return frozenset()  # the next look, at the latest, tries again
        except (Unavailable, RedisError, BrokerError):
            raise
        except Exception:  # noqa: BLE001 - see above
            if len(tasks) == 1:
                _log.exception("task not advanced", action="dispatch", task=tasks[0])
                return frozenset()
        return frozenset().union(*(self._advance([task]) for task in tasks))

    def _await_work(self, full: frozenset[str], *, until: float) -> None:
        """Wait until something may start: a wake-up, the next look, or room in a queue that was full and has workers."""
        watched = full and (self._guarded(lambda: full & self._window.slots.keys()) or frozenset())
        while not self._wake.wait(min(_HELD_LOOK_SECONDS if watched else math.inf, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until or (watched and self._guarded(lambda: self._has_room(watched)) is not False):
                break
        self._wake.clear()

    def _has_room(self, queues: frozenset[str]) -> bool:
        self._window.measure()
        return any(self._window.room(queues).values())


def _portions(startable: Mapping[TaskId, int]) -> Iterator[list[TaskId]]:
    """Cut the line of tasks into portions that are planned together: not too many tasks, not too much to plan."""
    portion: list[TaskId] = []
    size = 0
    for task, count in startable.items():
        if portion and (len(portion) == _PORTION_TASKS or size + count > _PORTION_SUBTASKS):
            yield portion
            portion, size = [], 0
        portion.append(task)
        size += count
    if portion:
        yield portion
