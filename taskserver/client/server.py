"""The calls of the main API, one method each.

Blocking; not to be shared by threads. What waits (`changes`) asks the server to hold the answer, so nothing here polls.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote

from taskserver.client.answers import LogPart, Page, Principal, Subtask, TaskDetail, TaskStatus
from taskserver.client.transport import Query, Reply, ServerRefused, ServerUnreachable, Transport

PREFIX = "/api/v2/tasks"
_HOLD_SECONDS = 30
_PATIENCE_SECONDS = 60.0  # a server that is started again while somebody waits
_RETRY_SECONDS = 0.25
_NOT_FOUND = 404


class TaskServer:
    """A server, as one principal sees it. Every call raises `ServerUnreachable` or `ServerRefused` when it fails."""

    def __init__(self, url: str, token: str) -> None:
        """Make no connection yet.

        Args:
            url: `http://HOST:PORT`.
            token: The principal's token.

        """
        self._transport = Transport(url, token)
        self.url = self._transport.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def submit(self, submission: Mapping[str, Any], *, idempotency_key: str | None = None) -> TaskDetail:
        """Submit a task and return its detail.

        An idempotency key is for servers that know it; one of this version refuses it.
        """
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return TaskDetail.of(self._call("POST", "/instances", body=submission, headers=headers).data)

    def tasks(self, query: Query | None = None) -> Page:
        """Return one page of the tasks; the query's names are those of the API."""
        return Page.of(self._call("GET", "/instances", query=query).data)

    def detail(self, task: int) -> TaskDetail:
        """Return a task with its subtasks."""
        return TaskDetail.of(self._call("GET", f"/instances/{task}").data)

    def status(self, task: int) -> TaskStatus:
        """Return a task's state and counts."""
        return TaskStatus.of(self._call("GET", f"/instances/{task}/status").data)

    def changes(self, task: int, *, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[TaskStatus]:
        """Yield the status now and at each change, until the task is settled.

        A server that goes away in the meantime is waited for; the first call fails at once.
        """
        reply = self._call("GET", f"/instances/{task}/status")
        while True:
            if reply.data is not None:
                status = TaskStatus.of(reply.data)
                yield status
                if status.is_settled:
                    return
            reply = self._next_change(task, reply.etag, patience_seconds)

    def subtask(self, task: int, key_or_id: str) -> Subtask:
        """Return the subtask of that id or key.

        Raises:
            ServerRefused: The task is not there, or has no such subtask.

        """
        if key_or_id.isascii() and key_or_id.isdigit():
            try:
                return Subtask.of(self._call("GET", f"/instances/{task}/subtasks/{key_or_id}").data)
            except ServerRefused as error:
                if error.http_status != _NOT_FOUND:
                    raise
        found = self.detail(task).subtask(key_or_id)
        if found is None:
            raise ServerRefused(
                f"task {task} has no subtask {key_or_id!r}: `taskserver show {task}` lists them",
                http_status=_NOT_FOUND,
                target=key_or_id,
            )
        return found

    def log(self, task: int, subtask: int, *, attempt: int | None = None, tail: int | None = None) -> Iterator[str]:
        """Yield the log of a subtask as written so far, in parts."""
        query: dict[str, str | int] = {
            name: value for name, value in (("attempt", attempt), ("tail", tail)) if value is not None
        }
        while True:
            reply = self._call("GET", f"/instances/{task}/subtasks/{subtask}/log", query=query)
            part = LogPart.of(reply.data)
            yield part.log
            if not part.more:
                return
            query["after"] = part.cursor

    def kinds(self) -> list[Mapping[str, Any]]:
        """Return the kinds that workers have registered."""
        return list(self._call("GET", "/kinds").data["contents"])

    def create_principal(self, name: str, *, role: str, account: str) -> Principal:
        """Make a principal; its token is in the answer and nowhere else."""
        body = {"name": name, "role": role, "account": account}
        return Principal.of(self._call("POST", "/principals", body=body).data)

    def principals(self) -> list[Principal]:
        """Return the principals in reach."""
        return [Principal.of(one) for one in self._call("GET", "/principals").data["contents"]]

    def rotate_principal(self, name: str) -> Principal:
        """Give a principal a new token; the old one ends at once."""
        return Principal.of(self._call("POST", f"/principals/{quote(name, safe='')}/rotate").data)

    def delete_principal(self, name: str) -> None:
        """End a principal; its token is worth nothing from now on."""
        self._call("DELETE", f"/principals/{quote(name, safe='')}")

    def _next_change(self, task: int, etag: str | None, patience_seconds: float) -> Reply:
        headers = {} if etag is None else {"If-None-Match": etag}
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                return self._call(
                    "GET", f"/instances/{task}/status", query={"waitSeconds": _HOLD_SECONDS}, headers=headers
                )
            except ServerUnreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        return self._transport.call(method, PREFIX + path, query=query, body=body, headers=headers)
