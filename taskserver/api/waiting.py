"""What long polls and streams of one server process wait for: the statuses of tasks, and the logs of subtasks.

Settlement comes by NOTIFY as well, at once; it only makes the poll look earlier.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from functools import partial

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from schema.identity import SubtaskId, TaskId
from schema.listening import Listener
from schema.transitions.progress import SETTLED_CHANNEL
from taskserver.api.polling import Following, Poll, SharedReads
from taskserver.queries.logs import LogMark, log_marks
from taskserver.queries.status import changed_statuses
from taskserver.views.tasks import TaskStatus

_POLL_SECONDS = 0.075
_LOG_POLL_SECONDS = 0.25
_LOG_READS_AT_ONCE = 4


class Watch:
    """The polls of one process, started by the first who waits, ended by `stop`.

    Knows no accounts: who waits for a task has been found to have the right to see it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: Poll[TaskId, TaskStatus] = Poll(partial(changed_statuses, engine), seconds=_POLL_SECONDS)
        self._logs: Poll[SubtaskId, LogMark] = Poll(partial(log_marks, engine), seconds=_LOG_POLL_SECONDS)
        self._listener: Listener | None = None
        self._stopped = False
        self.log_reads = SharedReads(at_once=_LOG_READS_AT_ONCE)

    @property
    def followers(self) -> int:
        """How many wait for something."""
        return self._tasks.followers + self._logs.followers

    def tasks(self, ids: Collection[TaskId]) -> AbstractContextManager[Following[TaskId, TaskStatus]]:
        """Follow the statuses of tasks for a block."""
        self._listen()
        return self._tasks.following(ids)

    def logs(self, ids: Collection[SubtaskId]) -> AbstractContextManager[Following[SubtaskId, LogMark]]:
        """Follow for a block how far the logs of subtasks have come."""
        return self._logs.following(ids)

    def stop_waiting(self) -> None:
        """Let everybody who waits answer now, and nobody wait from now on: the server is about to end."""
        self._stopped = True
        self._tasks.stop_following()
        self._logs.stop_following()

    async def stop(self) -> None:
        """Stop polling and listening."""
        self.stop_waiting()
        await self._tasks.stop()
        await self._logs.stop()
        if self._listener is not None:
            await run_in_threadpool(self._listener.stop)

    def _listen(self) -> None:
        if self._stopped or self._listener is not None:
            return
        loop = asyncio.get_running_loop()
        url = self._engine.url.render_as_string(hide_password=False)
        self._listener = Listener(url, {SETTLED_CHANNEL: lambda payload: _call_in(loop, self._settled, payload)})
        self._listener.start()

    def _settled(self, payload: str) -> None:
        # An empty payload says that the listener has connected anew and may have missed some.
        self._tasks.ask_soon(TaskId(int(payload)) if payload.isdigit() else None)


def _call_in(loop: asyncio.AbstractEventLoop, act: Callable[[str], None], payload: str) -> None:
    with suppress(RuntimeError):  # the loop has ended before its listener
        loop.call_soon_threadsafe(act, payload)
