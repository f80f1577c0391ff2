"""The client for programs that block: the face of `server_calls`, where every call is documented."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from taskserver.client.answers import Document
from taskserver.client.blocking import Blocking, blocking, run
from taskserver.client.connections import BlockingConnection
from taskserver.client.opening import Opening
from taskserver.client.server_calls import ServerCalls
from taskserver.client.session import Session
from taskserver.client.submissions import SubmissionMembers
from taskserver.client.tasks import Task


class TaskServer(Opening, Blocking[ServerCalls]):
    """A server, as one principal sees it. Threads may share it; a forked process makes its own.

    Example::

        with TaskServer("http://127.0.0.1:8080", token) as server:
            task = server.submit(definition="prepare_host", instance_id=42, arguments={"host": "10.0.0.7"})
            task.wait(timeout=60, on_progress=lambda status: print(status.state, status.progress))
            print(task.subtask("mount[0]").log())
    """

    _connection = BlockingConnection

    def _use(self, session: Session) -> None:
        Blocking.__init__(self, ServerCalls(session))
        self.url = session.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run(self._core.close())

    close = blocking(ServerCalls.close)
    tasks = blocking(ServerCalls.tasks)
    statuses = blocking(ServerCalls.statuses)
    retry_tasks = blocking(ServerCalls.retry_tasks)
    kinds = blocking(ServerCalls.kinds)
    workers = blocking(ServerCalls.workers)
    definitions = blocking(ServerCalls.definitions)
    definition = blocking(ServerCalls.definition)
    put_definition = blocking(ServerCalls.put_definition)
    delete_definition = blocking(ServerCalls.delete_definition)
    principals = blocking(ServerCalls.principals)
    create_principal = blocking(ServerCalls.create_principal)
    rotate_principal = blocking(ServerCalls.rotate_principal)
    delete_principal = blocking(ServerCalls.delete_principal)

    def task(self, id_: int) -> Task:
        """Return a handle of a task; it makes no call."""
        return Task(self._core.task(id_))

    def submit(
        self,
        submission: Document | None = None,
        *,
        idempotency_key: str | None = None,
        **members: Unpack[SubmissionMembers],
    ) -> Task:
        """Submit a task and return its handle; it is committed then, and will run. See `ServerCalls.submit`.

        Example::

            task = server.submit(subtasks=[{"key": "a", "kind": "builtin.noop"}], idempotency_key="nightly-2026-12-01")
        """
        return Task(run(self._core.submit(submission, idempotency_key=idempotency_key, **members)))

    def submit_batch(self, submissions: Sequence[Document], *, idempotency_key: str | None = None) -> list[Task]:
        """Submit at most 1,000 tasks, all or none, and return their handles in the same order."""
        return [Task(one) for one in run(self._core.submit_batch(submissions, idempotency_key=idempotency_key))]
