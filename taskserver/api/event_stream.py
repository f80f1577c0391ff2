"""Server-Sent Events: how a stream of them is answered, kept alive and ended, and who asks for one.

What goes wrong before the first event is answered in the envelope like any error; so a route looks before it streams. A
client that goes away ends its stream at once. A stream outlives many a token: whether the caller still may read is asked
again with each sign of life.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Annotated

import anyio
from fastapi import Depends, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.types import Send

from schema.errors import Refused, Unavailable
from taskserver.api.authentication import Caller, Verifier
from taskserver.views.view import View

_KEEP_ALIVE_SECONDS = 15.0
# Not an empty line after it: there are clients that take one for the end of an event without data.
_SIGN_OF_LIFE = b": keep-alive\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_JSON, _EVENTS = "application/json", "text/event-stream"

Recheck = Callable[[], Awaitable[bool]]


def event(name: str, data: View | Mapping[str, object], *, id_: str | None = None) -> bytes:
    """Return an event as it is sent; its data is one line of JSON."""
    if isinstance(data, View):
        written = data.model_dump_json(by_alias=True, exclude_none=True)
    else:
        written = json.dumps(data, separators=(",", ":"))
    return format_sse_event(event=name, data_str=written, id=id_)


class EventStream(EventSourceResponse):
    """Sends events as they come."""

    def __init__(self, events: AsyncGenerator[bytes, None], still_allowed: Recheck) -> None:
        super().__init__(events, headers=_HEADERS)
        self._events = events
        self._still_allowed = still_allowed

    async def stream_response(self, send: Send) -> None:
        """Send them until they end, the client goes away, or may not read any more."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._keep_alive, send, beside.cancel_scope)
            # Closed at once, not when it is collected: what it follows must be let go.
            async with aclosing(self._events) as events:
                async for one in events:
                    await _send_part(send, one)
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


def _recheck(request: Request, caller: Caller, verifier: Verifier) -> Recheck:
    async def still_allowed() -> bool:
        try:
            return await run_in_threadpool(verifier.principal, request) == caller
        except Refused:
            return False
        except Unavailable:
            return True  # nobody can be asked: the next time

    return still_allowed


StillAllowed = Annotated[Recheck, Depends(_recheck)]


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
    return {"description": description, "content": {_EVENTS: {"schema": {"type": "string"}, "example": example}}}
