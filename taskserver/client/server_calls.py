"""The calls of the main API, one method each, for programs that await; the blocking client runs these very methods.

What waits asks the server to hold the answer, so nothing here polls.
"""

from collections.abc import Sequence
from typing import Unpack

from schema.errors import InvalidArgument
from taskserver.client.answers import (
    Definition,
    Document,
    Kind,
    Page,
    Principal,
    RetryAnswer,
    TaskStatus,
    TaskStatuses,
    Worker,
)
from taskserver.client.async_tasks import AsyncTask
from taskserver.client.calls import Call, Query, delete, get, post, post_once, put
from taskserver.client.session import Session
from taskserver.client.submissions import SubmissionMembers, TaskFilters, filter_query, submission_document

_IDS_AT_ONCE = 200  # so that no proxy on the way finds the address too long


class ServerCalls:
    """What a server can be asked. Every call raises `ServerUnreachable` or `ServerRefused` when it fails."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.url = session.url

    def __str__(self) -> str:
        return f"at {self.url}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def task(self, id_: int) -> AsyncTask:
        """Return a handle of a task; it makes no call."""
        return AsyncTask(self._session, id_)

    async def submit(
        self,
        submission: Document | None = None,
        *,
        idempotency_key: str | None = None,
        **members: Unpack[SubmissionMembers],
    ) -> AsyncTask:
        """Submit a task and return its handle; it is committed then, and will run.

        A call whose answer is lost is made again without making a second task. With an idempotency key of the caller's
        own the same holds for calls by several processes, within 24 hours. Examples::

            task = server.submit(definition="prepare_host", instance_id=42, arguments={"host": "10.0.0.7"})
            task = server.submit(subtasks=[{"key": "a", "kind": "builtin.noop"}], name="nightly", priority=9)
            task = server.submit(json.load(file), idempotency_key="nightly-2026-12-01")

        Args:
            submission: The submission as a document.
            idempotency_key: The same key and document again is the same task.
            **members: Members of the document in snake case, over those of the submission; see `SubmissionMembers`.

        Raises:
            InvalidSubmission: The graph is wrong.
            InvalidRequest: Fields are wrong; `sub_errors` names each.
            DuplicateInstance: A task of the same instance is at work; `target` is its id.

        """
        body = submission_document(submission, members)
        stored = await self._session.data(post_once("instances", body=body, key=idempotency_key))
        return self._handle(stored)

    async def submit_batch(
        self, submissions: Sequence[Document], *, idempotency_key: str | None = None
    ) -> list[AsyncTask]:
        """Submit at most 1,000 tasks, all or none, and return their handles in the same order.

        Raises:
            ServerRefused: One of them cannot be taken; the message names its place.

        """
        call = post_once("instances", "batch", body=list(submissions), key=idempotency_key)
        return [self._handle(one) for one in await self._session.data(call)]

    async def tasks(self, query: Query | None = None, **filters: Unpack[TaskFilters]) -> Page:
        """Return one page of the tasks, the newest first.

        Example::

            failed = server.tasks(state="FAILED", created_after=yesterday, size=100).contents

        Args:
            query: Parameters as the API spells them.
            **filters: The same in snake case, and they come first; see `TaskFilters`.

        """
        return Page.of(await self._session.data(get("instances").asking(**{**(query or {}), **filter_query(filters)})))

    async def statuses(self, ids: Sequence[int]) -> TaskStatuses:
        """Return the status of each of the tasks, and the ids of those that are not there."""
        contents: list[TaskStatus] = []
        missing: list[int] = []
        for first in range(0, len(ids), _IDS_AT_ONCE):
            wanted = ",".join(str(one) for one in ids[first : first + _IDS_AT_ONCE])
            part = TaskStatuses.of(await self._session.data(get("instances", "status").asking(ids=wanted)))
            contents += part.contents
            missing += part.missing
        return TaskStatuses(contents=contents, missing=missing)

    async def retry_tasks(
        self,
        ids: Sequence[int] | None = None,
        *,
        filter: Query | None = None,  # noqa: A002 - the name on the wire
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> list[RetryAnswer]:
        """Retry several FAILED tasks and return what became of each.

        Args:
            ids: These tasks.
            filter: Or those that the filter finds, spelled as for the list.
            reason: Kept in the audit of each.
            idempotency_key: The same key and document again is the same retry.

        """
        if (ids is None) == (filter is None):
            raise InvalidArgument("give either the ids of the tasks or a filter")
        body = {"ids": None if ids is None else list(ids), "filter": filter, "reason": reason}
        given = {name: value for name, value in body.items() if value is not None}
        return [
            RetryAnswer.of(one)
            for one in await self._contents(post_once("instances", "retry", body=given, key=idempotency_key))
        ]

    async def kinds(self) -> list[Kind]:
        """Return the kinds that workers have registered."""
        return [Kind.of(one) for one in await self._contents(get("kinds"))]

    async def workers(self) -> list[Worker]:
        """Return the workers that live, or were heard of in the last hour."""
        return [Worker.of(one) for one in await self._contents(get("workers"))]

    async def definitions(self) -> list[Definition]:
        """Return the newest version of each definition."""
        return [Definition.of(one) for one in await self._contents(get("definitions"))]

    async def definition(self, name: str, version: int | None = None) -> Definition:
        """Return a definition, in its newest version if no other is asked for."""
        return Definition.of(await self._session.data(get("definitions", name).asking(version=version)))

    async def put_definition(self, name: str, document: Document) -> Definition:
        """Store a definition and return its newest version; what is unchanged makes no new one."""
        return Definition.of(await self._session.data(put("definitions", name, body=document)))

    async def delete_definition(self, name: str) -> None:
        """Remove a definition; tasks of it keep their version."""
        await self._session.call(delete("definitions", name))

    async def create_principal(self, name: str, *, role: str, account: str) -> Principal:
        """Make a principal; its token is in the answer and nowhere else."""
        body = {"name": name, "role": role, "account": account}
        return Principal.of(await self._session.data(post("principals", body=body)))

    async def principals(self) -> list[Principal]:
        """Return the principals in reach."""
        return [Principal.of(one) for one in await self._contents(get("principals"))]

    async def rotate_principal(self, name: str) -> Principal:
        """Give a principal a new token; the old one ends at once."""
        return Principal.of(await self._session.data(post("principals", name, "rotate")))

    async def delete_principal(self, name: str) -> None:
        """End a principal; its token is worth nothing from now on."""
        await self._session.call(delete("principals", name))

    async def _contents(self, call: Call) -> list[Document]:
        return list((await self._session.data(call))["contents"])

    def _handle(self, stored: Document) -> AsyncTask:
        return AsyncTask(self._session, int(stored["id"]), task_id=str(stored["taskId"]))
