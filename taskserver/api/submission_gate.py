"""How many submissions of one server process are in the database at once, so that connections are left for everything else.

A submission may have to wait there for somebody's open transaction, which has the same instance or idempotency key and may
last. Of those that claim the same thing a few only are let in, and of all of them a share of the connections. The others wait
here, where that costs neither a connection nor a thread: a moment for what others claim, some seconds for room. Then they are
told to come again.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from schema.errors import Busy
from schema.transitions.patience import MOMENT_SECONDS
from taskserver.submission import Prepared, Stored

_MOST_ALIKE = 2
_MOST_WAITING = 1_000
_ROOM_SECONDS = 8.0
_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class _Waiting:
    """One that waits at the gate; it has been let in when `admitted` is set."""

    claims: Collection[str]
    loop: asyncio.AbstractEventLoop
    admitted: bool = False
    told: asyncio.Event = field(default_factory=asyncio.Event)


class SubmissionGate:
    """Lets in at most so many at once, and at most two that claim the same thing. Waited at in one event loop.

    Args:
        most: How many.
        seconds: How long one waits for what others claim.

    """

    def __init__(self, *, most: int, seconds: float = MOMENT_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._inside = 0
        self._claimed: Counter[str] = Counter()
        self._line: list[_Waiting] = []
        self._lock = threading.Lock()

    async def store(self, engine: Engine, prepare: Callable[[], Prepared], answer: Callable[[list[Stored]], _T]) -> _T:
        """Prepare, store and answer: all in one thread, unless what is to be stored must wait at the gate.

        Raises:
            Busy: It could not be let in.
            Exception: What the three raise.

        """
        done = await run_in_threadpool(self._store_at_once, engine, prepare, answer)
        if not isinstance(done, Prepared):
            return done
        async with self.entered(done.claims):
            stored = await run_in_threadpool(done.store, engine)
        return await run_in_threadpool(answer, stored)

    def _store_at_once(
        self, engine: Engine, prepare: Callable[[], Prepared], answer: Callable[[list[Stored]], _T]
    ) -> _T | Prepared:
        prepared = prepare()
        if not self.try_enter(prepared.claims):
            return prepared
        try:
            stored = prepared.store(engine)
        finally:
            self.leave(prepared.claims)
        return answer(stored)

    @asynccontextmanager
    async def entered(self, claims: Collection[str]) -> AsyncIterator[None]:
        """Be inside for a block; wait for that a moment if need be.

        Raises:
            Busy: It did not become possible in time, or too many wait.

        """
        await self._enter(claims)
        try:
            yield
        finally:
            self.leave(claims)

    async def _enter(self, claims: Collection[str]) -> None:
        waiting = _Waiting(claims, asyncio.get_running_loop())
        with self._lock:
            if self._has_room(claims):
                self._admit(claims)
                return
            if len(self._line) >= _MOST_WAITING:
                raise _busy()
            self._line.append(waiting)
        try:
            admitted = await _told_within(waiting, self._seconds) or (
                self._lacks_room_only(claims) and await _told_within(waiting, _ROOM_SECONDS)
            )
            if not admitted and self._gave_up(waiting):
                raise _busy()
        except asyncio.CancelledError:
            if not self._gave_up(waiting):
                self.leave(claims)
            raise

    def _lacks_room_only(self, claims: Collection[str]) -> bool:
        with self._lock:
            return self._is_free(claims)

    def _gave_up(self, waiting: _Waiting) -> bool:
        with self._lock:
            if not waiting.admitted:
                self._line.remove(waiting)
            return not waiting.admitted

    def try_enter(self, claims: Collection[str]) -> bool:
        """Be inside from now on, if that is possible at once. Callable from any thread, as `leave` is."""
        with self._lock:
            possible = self._has_room(claims)
            if possible:
                self._admit(claims)
            return possible

    def leave(self, claims: Collection[str]) -> None:
        """Be no longer inside; let in whoever waits and has room now, first come first served."""
        with self._lock:
            self._inside -= 1
            self._claimed.subtract(claims)
            for claim in claims:
                if not self._claimed[claim]:
                    del self._claimed[claim]
            admitted = []
            for waiting in self._line:
                if self._inside == self._most:
                    break
                if self._has_room(waiting.claims):
                    self._admit(waiting.claims)
                    waiting.admitted = True
                    admitted.append(waiting)
            self._line = [one for one in self._line if not one.admitted]
        for waiting in admitted:
            waiting.loop.call_soon_threadsafe(waiting.told.set)

    def _has_room(self, claims: Collection[str]) -> bool:
        return self._inside < self._most and self._is_free(claims)

    def _is_free(self, claims: Collection[str]) -> bool:
        return all(self._claimed[claim] < _MOST_ALIKE for claim in claims)

    def _admit(self, claims: Collection[str]) -> None:
        self._inside += 1
        self._claimed.update(claims)


async def _told_within(waiting: _Waiting, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await waiting.told.wait()
    except TimeoutError:
        return False
    return True


def _busy() -> Busy:
    return Busy("others submit the same, or too many submit at once; the call can be made again")
