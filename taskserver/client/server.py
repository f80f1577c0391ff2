"""The client for programs that block: the face of `server_calls`, where every call is documented."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from taskserver.client.address import Address, known_address
from taskserver.client.answers import Document
from taskserver.client.blocking import Blocking, blocking, run
from taskserver.client.connections import BlockingConnection
from taskserver.client.server_calls import ServerCalls
from taskserver.client.session import PATIENCE_SECONDS, TIMEOUT_SECONDS, WAITING_PATIENCE_SECONDS, Session
from taskserver.client.submissions import SubmissionMembers
from taskserver.client.tasks import Task


class TaskServer(Blocking[ServerCalls]):
    """A server, as one principal sees it. Threads may share it; a forked process makes its own.

    Example::

        with TaskServer("http://127.0.0.1:8080", token) as server:
            task = server.submit(definition="prepare_host", instance_id=42, arguments={"host": "10.0.0.7"})
            task.wait(timeout=60, on_progress=lambda status: print(status.state, status.progress))
            print(task.subtask("mount[0]").log())
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        waiting_patience_seconds: float = WAITING_PATIENCE_SECONDS,
    ) -> None:
        """Make no connection yet.

        Args:
            url: `http://HOST:PORT`.
            token: The principal's token.
            timeout: Seconds that a server which took a call may be silent.
            patience_seconds: How long a call is made again while no server answers; 0 tries once.
            waiting_patience_seconds: The same while waiting for a task or following a log.

        Raises:
            InvalidArgument: The URL or the token is none.

        """
        connection = BlockingConnection(Address.of(url, token, timeout))
        session = Session(
            connection, patience_seconds=patience_seconds, waiting_patience_seconds=waiting_patience_seconds
        )
        super().__init__(ServerCalls(session))
        self.url = session.url

    @classmethod
    def from_settings(cls) -> Self:
        """Return the client of TASKSERVER_URL and TASKSERVER_TOKEN, else of the `taskserver dev` that runs here.

        Raises:
            InvalidArgument: A URL is set without a token.
            ServerUnreachable: No URL is set and no `dev` runs in `.taskserver`.

        """
        return cls(*known_address())

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
