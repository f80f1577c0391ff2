"""How many messages may be out: a bounded window for each queue.

About a second of work, and at least a few messages for each live slot. The backlog waits in PostgreSQL, so that pause,
cancel, priority and fairness act at once and no backlog makes a storm of duplicates.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

from redis import Redis
from sqlalchemy import Engine

from schema.database import transaction
from schema.settings import Settings
from schema.transitions import registrations

_REFRESH_SECONDS = 1.0


class Window:
    """The room left in each queue; one for each dispatcher, used from its thread alone."""

    def __init__(self, engine: Engine, redis: Redis, settings: Settings) -> None:
        self._engine = engine
        self._redis = redis
        self._settings = settings
        self._refreshed = float("-inf")
        self._slots: Mapping[str, int] = {}
        self._started: Mapping[str, int] = {}
        self._typical: Mapping[str, float] = {}
        self._rates: dict[str, float] = {}
        self._asked: set[str] = set()
        self._lengths: dict[str, int] = {}

    @property
    def slots(self) -> Mapping[str, int]:
        """The live slots by queue, at most a second old."""
        self._refresh()
        return self._slots

    @property
    def typical_seconds(self) -> Mapping[str, float]:
        """How long attempts take lately by kind, where that is known; at most a second old."""
        self._refresh()
        return self._typical

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._refreshed < _REFRESH_SECONDS:
            return
        with transaction(self._engine) as connection:
            silence = self._settings.dead_after_seconds
            capacities = registrations.live_capacity(connection, silence_seconds=silence)
            self._typical = registrations.typical_seconds(connection)
        started = {queue: one.started for queue, one in capacities.items()}
        self._rates = {
            queue: max(0.0, count - self._started.get(queue, count)) / (now - self._refreshed)
            for queue, count in started.items()
        }
        self._slots = {queue: one.slots for queue, one in capacities.items()}
        self._started = started
        self._refreshed = now

    def measure(self) -> None:
        """Ask the broker how long the queues are; before a task is locked, so that a slow broker holds up no worker.

        Those that have workers, and those that were asked about since the last measure.

        Raises:
            redis.exceptions.RedisError: The broker is away.

        """
        names = sorted(self._asked | self.slots.keys())
        self._asked = set()
        self._lengths = self._measured(names)

    def room(self, queues: Iterable[str]) -> dict[str, int]:
        """Return how many more units each queue may take, by the last measure; another queue is asked about now.

        Raises:
            redis.exceptions.RedisError: The broker is away.

        """
        names = list(queues)
        self._asked.update(names)
        if fresh := [name for name in names if name not in self._lengths]:
            self._lengths |= self._measured(fresh)
        return {name: max(0, self._size(name) - self._lengths[name]) for name in names}

    def full(self) -> frozenset[str]:
        """Return the queues that had no room at the last measure."""
        return frozenset(name for name, length in self._lengths.items() if length >= self._size(name))

    @property
    def largest_release(self) -> int:
        """The most units that one release can be about."""
        return max([2 * slots for slots in self.slots.values()] + [self._size(name) for name in self._lengths] + [1])

    def _measured(self, names: Sequence[str]) -> dict[str, int]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.llen(name)
            return dict(zip(names, pipeline.execute(), strict=True))

    def _size(self, queue: str) -> int:
        slots = self.slots.get(queue, 0)
        return max(self._settings.window_per_slot * max(1, slots), int(self._rates.get(queue, 0.0)))
