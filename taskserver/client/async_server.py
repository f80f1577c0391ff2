"""The client for programs that await."""

from types import TracebackType
from typing import Self

from taskserver.client.address import Address, known_address
from taskserver.client.connections import SuspendingConnection
from taskserver.client.server_calls import ServerCalls
from taskserver.client.session import PATIENCE_SECONDS, TIMEOUT_SECONDS, WAITING_PATIENCE_SECONDS, Session


class AsyncTaskServer(ServerCalls):
    """A server, as one principal sees it. For the tasks of one event loop.

    Example::

        async with AsyncTaskServer("http://127.0.0.1:8080", token) as server:
            task = await server.submit(definition="prepare_host", instance_id=42)
            status = await task.wait(timeout=60)
            async for text in task.subtask("mount[0]").follow_log():
                print(text, end="")
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
        connection = SuspendingConnection(Address.of(url, token, timeout))
        super().__init__(
            Session(connection, patience_seconds=patience_seconds, waiting_patience_seconds=waiting_patience_seconds)
        )

    @classmethod
    def from_settings(cls) -> Self:
        """Return the client of TASKSERVER_URL and TASKSERVER_TOKEN, else of the `taskserver dev` that runs here.

        Raises:
            InvalidArgument: A URL is set without a token.
            ServerUnreachable: No URL is set and no `dev` runs in `.taskserver`.

        """
        return cls(*known_address())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
