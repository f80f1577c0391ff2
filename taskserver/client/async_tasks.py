"""A task and a subtask as handles, for programs that await; the blocking handles run these very methods.

A handle is an id and a way to the server: making one makes no call, and it stays valid whatever becomes of the task.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from inspect import isawaitable
from math import inf

from taskserver.client.answers import Diagnosis, OperationRecord, Plan, TaskDetail, TaskStatus
from taskserver.client.async_subtasks import AsyncSubtaskHandle
from taskserver.client.calls import Call, get, post_once
from taskserver.client.errors import TaskFailed, TaskTimeout
from taskserver.client.replies import Reply
from taskserver.client.session import Session

_HOLD_SECONDS = 30.0
_LATE_SECONDS = 5.0  # so long after the time that it was asked to hold, a server that lives has answered


class AsyncTask:
    """A task on the server. Every call raises `ServerUnreachable` or `ServerRefused` when it fails.

    A verb returns the task as it then stands, with its first 1,000 subtasks at most; `detail` has them all. `task_id` is its id
    of 32 hex digits; None where the handle was made from the number alone.
    """

    def __init__(self, session: Session, id_: int, *, task_id: str | None = None) -> None:
        self._session = session
        self.id = id_
        self.task_id = task_id

    def __str__(self) -> str:
        return f"{self.id} at {self._session.url}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def subtask(self, key_or_id: str | int) -> AsyncSubtaskHandle:
        """Return a handle of a subtask, by its key or its id; it makes no call."""
        return AsyncSubtaskHandle(self._session, self.id, key_or_id)

    async def status(self) -> TaskStatus:
        """Return the state and the counts: cheap, however many subtasks there are."""
        return TaskStatus.of(await self._session.data(self._status))

    async def detail(self) -> TaskDetail:
        """Return the task with all its subtasks, in topological order."""
        return TaskDetail.of(await self._session.data(get("instances", self.id)))

    async def plan(self) -> Plan:
        """Return how the graph becomes Celery chains and chords."""
        return Plan.of(await self._session.data(get("instances", self.id, "plan")))

    async def diagnosis(self) -> Diagnosis:
        """Return why the task does not move, if it does not: findings, each with its cure."""
        return Diagnosis.of(await self._session.data(get("instances", self.id, "diagnosis")))

    async def operations(self) -> list[OperationRecord]:
        """Return who did what to the task, oldest first."""
        found = await self._session.data(get("instances", self.id, "operations"))
        return [OperationRecord.of(one) for one in found["contents"]]

    async def wait(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - it bounds the waiting, and says how far the task is
        *,
        on_progress: Callable[[TaskStatus], object] | None = None,
        raise_on_failure: bool = False,
    ) -> TaskStatus:
        """Return the status once the task is settled, whether it ended well or not.

        A server that goes away in the meantime is waited for. Example::

            status = task.wait(timeout=60, on_progress=lambda status: print(status.progress))
            if not status.is_successful:
                print(task.detail().error)

        Args:
            timeout: Seconds to wait at most; None waits for ever.
            on_progress: Called with the status now and at each change. What it returns is awaited if it can be.
            raise_on_failure: Whether a task that is settled and not SUCCESSFUL raises `TaskFailed`.

        Raises:
            TaskTimeout: It is not settled in time; it goes on.
            TaskFailed: It is not SUCCESSFUL, and that was asked for.

        """
        async with aclosing(self._statuses(timeout, settled_only=on_progress is None)) as statuses:
            async for status in statuses:
                if on_progress is not None and isawaitable(told := on_progress(status)):
                    await told
        if raise_on_failure and not status.is_successful:
            raise TaskFailed(await self.detail())
        return status

    async def changes(self) -> AsyncGenerator[TaskStatus, None]:
        """Yield the status now and at each change, up to the settled one.

        Changes that come faster than they are read are told as one. A server that goes away in the meantime is waited for.
        """
        async with aclosing(self._statuses(None, settled_only=False)) as statuses:
            async for status in statuses:
                yield status

    async def retry(self, reason: str | None = None, *, idempotency_key: str | None = None) -> TaskDetail:
        """Run all FAILED subtasks of a FAILED task again.

        Raises:
            WrongState: The task is not FAILED.

        """
        return await self._verb("retry", reason, idempotency_key)

    async def rollback(self, reason: str | None = None, *, idempotency_key: str | None = None) -> TaskDetail:
        """Undo a FAILED task: the rollback of all that has begun, in reverse order.

        Raises:
            WrongState: The task is not FAILED.
            RollbackProhibited: Something in it must not be rolled back.

        """
        return await self._verb("rollback", reason, idempotency_key)

    async def cancel(self, reason: str | None = None, *, idempotency_key: str | None = None) -> TaskDetail:
        """Stop the task; it is REVOKED once nothing of it runs any more, which `wait` tells.

        Raises:
            WrongState: The task is settled.

        """
        return await self._verb("cancel", reason, idempotency_key)

    async def pause(self, reason: str | None = None, *, idempotency_key: str | None = None) -> TaskDetail:
        """Hold the task: what has begun goes on to its end, nothing else begins until `resume`.

        Raises:
            WrongState: The task is settled, or paused already.

        """
        return await self._verb("pause", reason, idempotency_key)

    async def resume(self, reason: str | None = None, *, idempotency_key: str | None = None) -> TaskDetail:
        """Let a paused task go on.

        Raises:
            WrongState: The task is not paused.

        """
        return await self._verb("resume", reason, idempotency_key)

    async def abandon(self, reason: str | None = None, *, idempotency_key: str | None = None) -> TaskDetail:
        """Give a FAILED task up: it is REVOKED.

        Raises:
            WrongState: The task is not FAILED.

        """
        return await self._verb("abandon", reason, idempotency_key)

    async def _verb(self, verb: str, reason: str | None, key: str | None) -> TaskDetail:
        body = None if reason is None else {"reason": reason}
        return TaskDetail.of(await self._session.data(post_once("instances", self.id, verb, body=body, key=key)))

    @property
    def _status(self) -> Call:
        return get("instances", self.id, "status")

    async def _statuses(self, seconds: float | None, *, settled_only: bool) -> AsyncGenerator[TaskStatus, None]:
        """Yield the status now, then as it changes or from time to time; the last one is settled."""
        left = inf if seconds is None else seconds
        deadline = time.monotonic() + left
        reply = await self._look(self._status, 0, min(self._session.patience_seconds, left))
        status = TaskStatus.of(reply.data)
        yield status
        while not status.is_settled:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TaskTimeout(status, seconds or 0.0)
            call = self._status.asking(until="settled") if settled_only else self._status.unless(reply.etag)
            reply = await self._look(call, min(_HOLD_SECONDS, left), min(self._session.waiting_patience_seconds, left))
            if reply.data is not None:
                status = TaskStatus.of(reply.data)
                yield status

    async def _look(self, call: Call, hold_seconds: float, patience_seconds: float) -> Reply:
        held = call.held(hold_seconds, late_seconds=_LATE_SECONDS)
        return await self._session.call(held, patience_seconds=patience_seconds)
