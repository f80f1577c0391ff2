"""A subtask as a handle, for programs that await; the blocking handle runs these very methods."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from taskserver.client.answers import LogPart, Subtask, SubtaskDetail, TaskDetail
from taskserver.client.calls import get, post_once
from taskserver.client.errors import NotFound, ServerRefused
from taskserver.client.session import Session

_NOT_FOUND = 404
# What a server answers that is older than the looking up of keys, or has no such task: the detail tells which.
_CANNOT_LOOK_UP = frozenset({_NOT_FOUND, 405})


class AsyncSubtaskHandle:
    """A subtask on the server, by its key or its id. Every call raises `NotFound` where the task has no such subtask.

    The first call by a key asks for the id, which is cheap; an id saves that.
    """

    def __init__(self, session: Session, task: int, key_or_id: str | int) -> None:
        self._session = session
        self._task = task
        self._name = key_or_id
        self._id = key_or_id if isinstance(key_or_id, int) else None

    def __str__(self) -> str:
        return f"{self._name!r} of task {self._task} at {self._session.url}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    async def detail(self) -> SubtaskDetail:
        """Return the subtask with its arguments, its result and all its attempts."""
        return SubtaskDetail.of(await self._session.data(get(*await self._path())))

    async def log(self, *, attempt: int | None = None, tail: int | None = None) -> str:
        """Return the log as written so far, the attempts separated by lines of their own.

        Args:
            attempt: Only the attempt of this number, from 1.
            tail: Only the last lines, so many.

        """
        call = get(*await self._path(), "log").asking(attempt=attempt, tail=tail)
        parts = []
        while True:
            part = LogPart.of(await self._session.data(call))
            parts.append(part.log)
            if not part.more:
                return "".join(parts)
            call = call.after(part.cursor)

    async def follow_log(self, *, attempt: int | None = None, tail: int | None = None) -> AsyncGenerator[str, None]:
        """Yield the log so far and what is added to it, until the subtask has ended; nothing twice, nothing left out.

        A server that goes away in the meantime is waited for. Example::

            for text in task.subtask("mount[0]").follow_log():
                print(text, end="")

        Args:
            attempt: Only the attempt of this number, from 1.
            tail: Of what is there already only the last lines, so many.

        """
        call = get(*await self._path(), "log").asking(attempt=attempt, tail=tail)
        async with aclosing(self._session.follow(call)) as events:
            async for event in events:
                if event.event == "log":  # a newer server may tell more
                    yield LogPart.of(event.json()).log

    async def retry(self, reason: str | None = None, *, idempotency_key: str | None = None) -> Subtask:
        """Run a FAILED subtask again.

        Raises:
            WrongState: It is not FAILED.

        """
        return await self._verb("retry", reason, idempotency_key)

    async def skip(self, reason: str | None = None, *, idempotency_key: str | None = None) -> Subtask:
        """Let a FAILED subtask count as SUCCESSFUL.

        Raises:
            WrongState: It is not FAILED.

        """
        return await self._verb("skip", reason, idempotency_key)

    async def cancel(self, reason: str | None = None, *, idempotency_key: str | None = None) -> Subtask:
        """Stop a RUNNING subtask; it ends FAILED.

        Raises:
            WrongState: It is not RUNNING.

        """
        return await self._verb("cancel", reason, idempotency_key)

    async def signal(self, payload: Any = None, *, approve: bool = True, idempotency_key: str | None = None) -> Subtask:
        """Tell a subtask that waits for a signal to go on; the payload is its result.

        Args:
            payload: Any JSON value.
            approve: False lets the subtask fail.
            idempotency_key: As with the verbs.

        Raises:
            WrongState: It does not wait for a signal, or has had another one.

        """
        body = {"payload": payload, "approve": approve}
        return await self._post("signal", body, idempotency_key)

    async def _verb(self, verb: str, reason: str | None, key: str | None) -> Subtask:
        return await self._post(verb, None if reason is None else {"reason": reason}, key)

    async def _post(self, verb: str, body: object, key: str | None) -> Subtask:
        answered = await self._session.data(post_once(*await self._path(), verb, body=body, key=key))
        # Some verbs answer that they were done and nothing else, as the published manual has it.
        return await self.detail() if answered is None else Subtask.of(answered)

    async def _path(self) -> tuple[str | int, ...]:
        if self._id is None:
            self._id = await self._find(str(self._name))
        return "instances", self._task, "subtasks", self._id

    async def _find(self, name: str) -> int:
        """Return the id of the subtask: a name of digits is an id, or else a key like any other."""
        if name.isascii() and name.isdigit():
            with suppress(NotFound):
                return Subtask.of(await self._session.data(get("instances", self._task, "subtasks", name))).id
        found = await self._found(name)
        if found is None:
            raise NotFound(
                f"task {self._task} has no subtask {name!r}: `taskserver show {self._task}` lists them",
                http_status=_NOT_FOUND,
                error_code=NotFound.code,
                target=name,
            )
        return found.id

    async def _found(self, key: str) -> Subtask | None:
        try:
            found = await self._session.data(get("instances", self._task, "subtasks").asking(key=key))
        except ServerRefused as refused:
            if refused.http_status not in _CANNOT_LOOK_UP:
                raise
            detail = TaskDetail.of(await self._session.data(get("instances", self._task)))
            return detail.subtask(key)
        return next((Subtask.of(one) for one in found["contents"]), None)
