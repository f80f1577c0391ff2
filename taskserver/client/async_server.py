"""The client for programs that await."""

from types import TracebackType
from typing import Self

from taskserver.client.connections import SuspendingConnection
from taskserver.client.opening import Opening
from taskserver.client.server_calls import ServerCalls
from taskserver.client.session import Session


class AsyncTaskServer(Opening, ServerCalls):
    """A server, as one principal sees it. For the tasks of one event loop.

    Example::

        async with AsyncTaskServer("http://127.0.0.1:8080", token) as server:
            task = await server.submit(definition="prepare_host", instance_id=42)
            status = await task.wait(timeout=60)
            async for text in task.subtask("mount[0]").follow_log():
                print(text, end="")
    """

    _connection = SuspendingConnection

    def _use(self, session: Session) -> None:
        ServerCalls.__init__(self, session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
