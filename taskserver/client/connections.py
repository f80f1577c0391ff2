"""The two ways to reach a server, with one shape: one suspends while it waits, the other blocks and never suspends.

All else of the client is written once, as coroutines over this shape. Over `BlockingConnection` they run to their end
without an event loop. Connections are kept, and may be shared as `httpx` allows: the blocking one by threads, the other by
the tasks of one event loop.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import httpx
from httpx_sse import EventSource, ServerSentEvent

from taskserver.client.address import Address
from taskserver.client.calls import Call


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that goes on: its beginning, and its events if it has any."""

    response: httpx.Response
    events: AsyncGenerator[ServerSentEvent, None] | None


class Connection(Protocol):
    """What the client needs of a way to the server. Calls raise `httpx.RequestError` where it fails."""

    @property
    def url(self) -> str:
        """The server's address."""
        ...

    async def exchange(self, call: Call) -> httpx.Response:
        """Make a call and return its whole answer."""
        ...

    def stream(self, call: Call) -> AbstractAsyncContextManager[Stream]:
        """Make a call whose answer is a stream of events; another answer is read to its end."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class BlockingConnection:
    """Blocks the thread that calls; its coroutines never suspend."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self._address = address
        self._http = httpx.Client(**address.options)

    async def exchange(self, call: Call) -> httpx.Response:
        """Make a call and return its whole answer."""
        return self._http.request(**self._address.request(call))

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Stream]:
        """Make a call whose answer is a stream of events; another answer is read to its end."""
        with self._http.stream(**self._address.request(call)) as response:
            if _has_events(response):
                yield Stream(response, _each(EventSource(response)))
            else:
                response.read()
                yield Stream(response, None)

    async def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251 - to block is what this connection is for

    async def close(self) -> None:
        """Close the connections."""
        self._http.close()


class SuspendingConnection:
    """Suspends the task that calls."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self._address = address
        self._http = httpx.AsyncClient(**address.options)

    async def exchange(self, call: Call) -> httpx.Response:
        """Make a call and return its whole answer."""
        return await self._http.request(**self._address.request(call))

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Stream]:
        """Make a call whose answer is a stream of events; another answer is read to its end."""
        async with self._http.stream(**self._address.request(call)) as response:
            if _has_events(response):
                yield Stream(response, EventSource(response).aiter_sse())
            else:
                await response.aread()
                yield Stream(response, None)

    async def pause(self, seconds: float) -> None:
        """Wait."""
        import anyio  # not above: a command line that blocks should not wait for it to be imported

        await anyio.sleep(seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _has_events(response: httpx.Response) -> bool:
    return response.is_success and response.headers.get("content-type", "").startswith("text/event-stream")


async def _each(source: EventSource) -> AsyncGenerator[ServerSentEvent, None]:
    for event in source.iter_sse():
        yield event
