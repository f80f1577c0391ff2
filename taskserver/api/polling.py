"""Polls that all who wait in a process share: who follows something holds neither a thread nor a database connection.

A poll asks one question about everything that is followed, and only while something is. Who follows is woken when the
answer is another than before; answers that nobody has looked at yet are replaced by newer ones. The first answer that a
follower gets was asked for after it began to follow, so nothing falls between its own look and the poll's. All of it
lives in one event loop.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import anyio
from anyio.to_thread import run_sync
from structlog import get_logger

from schema.errors import Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")

# What is followed, and what is known of it already; answers what has changed, with None for what is gone.
Ask = Callable[[Collection[K], Mapping[K, V | None]], Mapping[K, V | None]]
_log = get_logger("taskserver.polling")


class Following(Generic[K, V]):
    """What one request follows: the newest answer for each key that has one."""

    def __init__(self) -> None:
        self.values: dict[K, V | None] = {}
        self.stopped = False
        self._woken = asyncio.Event()

    async def until(self, satisfied: Callable[[Mapping[K, V | None]], bool]) -> None:
        """Wait until the answers satisfy, or the server is about to end."""
        while not self.stopped and not satisfied(self.values):
            self._woken.clear()
            await self._woken.wait()

    async def other_than(self, key: K, seen: V | None) -> V | None:
        """Wait for an answer other than the seen one; None when the key is gone or the server is about to end."""
        await self.until(lambda values: key in values and (values[key] is None or values[key] != seen))
        return None if self.stopped else self.values[key]

    def notice(self, key: K, value: V | None) -> None:
        """Take a new answer."""
        self.values[key] = value
        self._woken.set()

    def stop(self) -> None:
        """Wait no more."""
        self.stopped = True
        self._woken.set()


class Poll(Generic[K, V]):
    """Asks for all who follow, again and again."""

    def __init__(self, ask: Ask[K, V], *, seconds: float) -> None:
        """Make a poll that asks in a thread, with so many seconds between an answer and the next question."""
        self._ask = ask
        self._seconds = seconds
        self._followings: defaultdict[K, set[Following[K, V]]] = defaultdict(set)
        self._known: dict[K, V | None] = {}
        self._joined: set[K] = set()  # since the last question was put
        self._soon = asyncio.Event()
        self._thread = anyio.CapacityLimiter(1)  # its own, or calls that wait for a connection would hold it up
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._stopped = False

    @property
    def followers(self) -> int:
        """How many follow something."""
        return len({one for followings in self._followings.values() for one in followings})

    @contextmanager
    def following(self, keys: Collection[K]) -> Iterator[Following[K, V]]:
        """Follow the keys for the block."""
        following: Following[K, V] = Following()
        following.stopped = self._stopped
        for key in keys:
            self._followings[key].add(following)
            self._joined.add(key)
            self._known.pop(key, None)
        self._start()
        try:
            yield following
        finally:
            for key in keys:
                self._leave(key, following)

    def ask_soon(self, key: K | None = None) -> None:
        """Ask without waiting for the turn, if somebody follows the key, or anything."""
        if self._followings if key is None else key in self._followings:
            self._soon.set()

    def stop_following(self) -> None:
        """Let all who follow go, now and from now on."""
        self._stopped = True
        for followings in self._followings.values():
            for one in followings:
                one.stop()

    async def stop(self) -> None:
        """Stop asking."""
        self.stop_following()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _leave(self, key: K, following: Following[K, V]) -> None:
        self._followings[key].discard(following)
        if not self._followings[key]:
            del self._followings[key]
            self._known.pop(key, None)

    def _start(self) -> None:
        self._soon.set()
        if not self._stopped and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._followings and not self._stopped:
            self._soon.clear()
            await self._look()
            with anyio.move_on_after(self._seconds):
                await self._soon.wait()

    async def _look(self) -> None:
        keys, known = list(self._followings), dict(self._known)
        self._joined.clear()
        try:
            answers = await run_sync(self._ask, keys, known, limiter=self._thread)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and who follows still waits
            if not self._failing:
                unexpected = None if isinstance(error, Unavailable) else error
                _log.warning("cannot look for changes", action="poll", error=str(error), exc_info=unexpected)
            self._failing = True
        else:
            self._failing = False
            self._tell(answers)

    def _tell(self, answers: Mapping[K, V | None]) -> None:
        for key, value in answers.items():
            # Who has joined since was promised an answer to a later question.
            if key in self._joined or key not in self._followings:
                continue
            if key in self._known and self._known[key] == value:
                continue
            self._known[key] = value
            for following in self._followings[key]:
                following.notice(key, value)


class SharedReads:
    """Reads that several followers want at the same time are made once, and only a few reads at a time."""

    def __init__(self, *, at_once: int) -> None:
        self._threads = anyio.CapacityLimiter(at_once)
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    def read(self, key: Hashable, act: Callable[[], T]) -> Awaitable[T]:
        """Read in a thread, or join the read of the same key that is under way; who goes away does not end it."""
        task: asyncio.Task[T] | None = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(run_sync(act, limiter=self._threads))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key))
        return asyncio.shield(task)
