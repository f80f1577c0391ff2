"""Long-polling: who waits holds neither a thread nor a database connection.

All waiters of a process share one poll: one statement asks for the marks of every task that is waited for, and only while
there are any. Settlement comes by NOTIFY as well, at once. Both only wake: what is answered is read afresh.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from structlog import get_logger

from schema.errors import Unavailable
from schema.identity import TaskId
from schema.transitions.progress import SETTLED_CHANNEL
from taskserver.listening import Listener
from taskserver.queries.status import Mark, task_marks

_POLL_SECONDS = 0.075
_log = get_logger("taskserver.waiting")


class Waiter:
    """One request that waits for its tasks; `changed` is set when it should look again."""

    def __init__(self, ids: Collection[TaskId], *, until_settled: bool) -> None:
        self.ids = frozenset(ids)
        self.until_settled = until_settled
        self.changed = asyncio.Event()
        self._seen: dict[TaskId, Mark | None] = {}

    def saw(self, marks: Mapping[TaskId, Mark | None]) -> None:
        """Remember what the request has read: a mark other than these wakes it."""
        self._seen = dict(marks)

    def notice(self, marks: Mapping[TaskId, Mark]) -> None:
        """Wake if the marks differ from what was seen."""
        for id_, seen in self._seen.items():
            mark = marks.get(id_)
            if mark != seen and (not self.until_settled or mark is None or mark.settled):
                self.changed.set()
                return


class Watch:
    """The waiters of one process. Lives in one event loop; started by the first waiter, ended by `stop`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiters: defaultdict[TaskId, set[Waiter]] = defaultdict(set)
        self._poll: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self._stopped = False

    @contextmanager
    def waiter(self, ids: Collection[TaskId], *, until_settled: bool) -> Iterator[Waiter]:
        """Register a waiter before the first look at its tasks, so that no change falls between the two."""
        waiter = Waiter(ids, until_settled=until_settled)
        for id_ in waiter.ids:
            self._waiters[id_].add(waiter)
        self._start()
        try:
            yield waiter
        finally:
            for id_ in waiter.ids:
                self._waiters[id_].discard(waiter)
                if not self._waiters[id_]:
                    del self._waiters[id_]

    @property
    def stopped(self) -> bool:
        """Whether the server is about to end: nobody should wait any more."""
        return self._stopped

    def stop_waiting(self) -> None:
        """Let every waiter answer now, and nobody wait from now on."""
        self._stopped = True
        self._wake(list(self._waiters))

    async def stop(self) -> None:
        """Stop polling and listening."""
        self.stop_waiting()
        if self._poll is not None:
            self._poll.cancel()
            with suppress(asyncio.CancelledError):
                await self._poll
        if self._listener is not None:
            await run_in_threadpool(self._listener.stop)

    def _start(self) -> None:
        if self._stopped:
            return
        if self._listener is None:
            loop = asyncio.get_running_loop()
            url = self._engine.url.render_as_string(hide_password=False)
            self._listener = Listener(url, {SETTLED_CHANNEL: lambda payload: _call_in(loop, self._settled, payload)})
            self._listener.start()
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._poll_while_waited_for())

    def _settled(self, payload: str) -> None:
        # An empty payload says that the listener has connected anew and may have missed some.
        self._wake([TaskId(int(payload))] if payload.isdigit() else list(self._waiters))

    def _wake(self, ids: Collection[TaskId]) -> None:
        for id_ in ids:
            for waiter in self._waiters.get(id_, ()):
                waiter.changed.set()

    async def _poll_while_waited_for(self) -> None:
        while self._waiters and not self._stopped:
            try:
                marks = await run_in_threadpool(task_marks, self._engine, list(self._waiters))
            except (Unavailable, SQLAlchemyError) as error:
                _log.warning("cannot look for changes; tries again", action="poll", error=str(error))
            else:
                for waiter in {one for waiters in self._waiters.values() for one in waiters}:
                    waiter.notice(marks)
            await asyncio.sleep(_POLL_SECONDS)


def _call_in(loop: asyncio.AbstractEventLoop, act: Callable[[str], None], payload: str) -> None:
    with suppress(RuntimeError):  # the loop has ended before its listener
        loop.call_soon_threadsafe(act, payload)
