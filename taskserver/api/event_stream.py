"""Server-Sent Events: how a stream of them is answered, kept alive and ended, and who asks for one.

What goes wrong before the first event is answered in the envelope like any error; so a route looks before it streams. A
client that goes away ends its stream at once. Nothing is read for a client that has not taken what was sent before. A
stream outlives many a token: whether the caller still may read is asked again with each sign of life.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from functools import partial
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, Header, Request
from fastapi.params import Header as HeaderParameter
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from schema.errors import Refused, Unavailable
from taskserver.api.authentication import Caller, Shown, Verifier
from taskserver.api.open_streams import OpenStreams
from taskserver.spelling import Spelled
from taskserver.views.view import View

_KEEP_ALIVE_SECONDS = 15.0
# Not an empty line after it: there are clients that take one for the end of an event without data.
_SIGN_OF_LIFE = b": keep-alive\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_JSON, _EVENTS = "application/json", "text/event-stream"
_EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string"},
    },
    "required": ["event", "data"],
}

Recheck = Callable[[], Awaitable[bool]]
Streamed = Callable[[AsyncGenerator[bytes, None]], "EventStream"]


def event(name: str, data: View | Mapping[str, object], *, id_: str | None = None) -> bytes:
    """Return an event as it is sent; its data is one line of JSON."""
    if isinstance(data, View):
        written = data.model_dump_json(by_alias=True, exclude_none=True)
    else:
        written = json.dumps(data, separators=(",", ":"))
    return format_sse_event(event=name, data_str=written, id=id_)


class EventStream(EventSourceResponse):
    """Sends events as they come."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], *, still_allowed: Recheck, counted: AbstractContextManager[None]
    ) -> None:
        super().__init__(events, headers=_HEADERS)
        self._events = events
        self._still_allowed = still_allowed
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless there are too many streams already: that is told in the envelope."""
        with self._counted:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send them until they end, the client goes away, or may not read any more."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._keep_alive, send, beside.cancel_scope)
            # Closed at once, not when it is collected: what it follows must be let go.
            async with aclosing(self._events) as events:
                while one := await anext(events, None):
                    await _send_part(send, one)
                    del one  # it may be long, and the connection has it
                    await _taken(send)
            beside.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send, stream: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(_KEEP_ALIVE_SECONDS)
            if not await self._still_allowed():
                stream.cancel()
                return
            await _send_part(send, _SIGN_OF_LIFE)


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _taken(send: Send) -> None:
    """Wait until the client has taken what was sent: nothing more is sent before."""
    await _send_part(send, b"")


def _streamed(request: Request, caller: Caller, shown: Shown, verifier: Verifier) -> Streamed:
    async def still_allowed() -> bool:
        try:
            # A stream that ends does not wait for the answer.
            return await run_sync(verifier.verified, shown, abandon_on_cancel=True) == caller
        except Refused:
            return False
        except Unavailable:
            return True  # nobody can be asked: the next time

    open_streams: OpenStreams = request.app.state.open_streams
    return partial(EventStream, still_allowed=still_allowed, counted=open_streams.one_more(caller.name))


Streaming = Annotated[Streamed, Depends(_streamed)]


def event_id(pattern: str) -> Spelled:
    """Return how the id of an event of a stream is spelled."""
    return Spelled(f"({pattern})?", "must be the id of an earlier event, or absent")


def last_event_id(description: str) -> HeaderParameter:
    """Return the header by which who comes back says how far it came."""
    header: HeaderParameter = Header(alias="Last-Event-ID", description=description)
    return header


def wants_events(request: Request) -> bool:
    """Tell whether the caller asks for events by name, and not for JSON rather."""
    qualities = _qualities(",".join(request.headers.getlist("accept")))
    wanted = qualities.get(_EVENTS, 0.0)
    json_wanted = next((qualities[one] for one in (_JSON, "application/*", "*/*") if one in qualities), 0.0)
    return wanted > 0 and wanted >= json_wanted


def _qualities(accept: str) -> dict[str, float]:
    qualities: dict[str, float] = {}
    for written in accept.lower().split(","):
        media, *parameters = (part.strip() for part in written.split(";"))
        quality = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        try:
            qualities[media] = float(quality)
        except ValueError:
            qualities[media] = 0.0
    return qualities


def described_as_events(description: str, example: str) -> dict[str, object]:
    """Return what an operation says about an answer that is a stream."""
    return {"description": description, "content": {_EVENTS: {"itemSchema": _EVENT_SCHEMA, "example": example}}}
