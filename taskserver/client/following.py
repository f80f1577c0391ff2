"""A stream of events that outlives its connections: each new one goes on after the last event's cursor."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace

from httpx_sse import ServerSentEvent

from taskserver.client.calls import Call
from taskserver.client.connections import Connection
from taskserver.client.errors import ServerUnreachable
from taskserver.client.replies import NO_ANSWER, no_answer, not_a_stream, reply_of

_SILENCE_SECONDS = 45.0  # three of the server's keep-alives
_END = "end"


class Followed:
    """The events of one call, read one by one; a connection that broke is replaced at the next reading."""

    def __init__(self, connection: Connection, call: Call) -> None:
        self._connection = connection
        self._call = replace(
            call, headers={**call.headers, "Accept": "text/event-stream"}, answer_seconds=_SILENCE_SECONDS
        )
        self._opened = AsyncExitStack()
        self._events: AsyncGenerator[ServerSentEvent, None] | None = None

    async def next(self) -> ServerSentEvent | None:
        """Return the next event; None at the end of the stream.

        Raises:
            ServerUnreachable: The connection broke; what was read before is not read again.
            ServerRefused: The server answered with an error.

        """
        try:
            if self._events is None:
                self._events = await self._open()
            event = await anext(self._events, None)
        except NO_ANSWER as error:
            await self.close()
            raise no_answer(error, self._connection.url) from error
        if event is None:
            await self.close()
            raise ServerUnreachable(f"{self._connection.url} broke off its answer", target=self._connection.url)
        if event.event == _END:
            return None
        if event.id:
            self._call = self._call.after(event.id)
        return event

    async def close(self) -> None:
        """Close the connection, if there is one."""
        self._events = None
        await self._opened.aclose()

    async def _open(self) -> AsyncGenerator[ServerSentEvent, None]:
        stream = await self._opened.enter_async_context(self._connection.stream(self._call))
        if stream.events is None:
            await self.close()
            reply_of(stream.response, self._connection.url)
            raise not_a_stream(self._connection.url)
        self._opened.push_async_callback(stream.events.aclose)
        return stream.events
