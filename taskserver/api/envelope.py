"""OCP's envelope around every answer, the trace that an answer carries, and the outermost layer of the application.

The outermost layer gives each request its trace and its start time, and turns what nobody expected into a 500 in the
envelope: the caller learns the trace id, the log has the rest.
"""

import json
import re
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from fastapi import Request, Response
from pydantic import Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog import get_logger
from structlog.contextvars import bound_contextvars

from schema.errors import TaskserverError
from taskserver.projection import wire_time
from taskserver.views.view import Moment, View

T = TypeVar("T")

_TRACE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = "taskserver_trace"
_JSON = "application/json"
_log = get_logger("taskserver.api")


class SubErrorView(View):
    """One wrong field."""

    field: str
    message: str
    rejected_value: Any = None


class ErrorView(View):
    """What went wrong."""

    code: int
    type: str
    message: str
    target: str | None = None
    sub_errors: list[SubErrorView] | None = None


class _Envelope(View):
    successful: bool
    timestamp: Moment
    duration: int = Field(description="Milliseconds.")
    status: int = Field(description="The HTTP status.")
    trace_id: str = Field(description="16 hex digits, or the caller's x-trace-id.")
    server: str


class Envelope(_Envelope, Generic[T]):
    """An answer."""

    data: T


class EmptyEnvelope(_Envelope):
    """An answer without data."""


class ErrorEnvelope(_Envelope):
    """An answer that says what went wrong."""

    error: ErrorView


@dataclass(frozen=True, slots=True)
class Trace:
    """What ties a request to its answer, its log lines and the task that it makes."""

    id: str
    traceparent: str | None
    began: float

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Trace":
        """Take the caller's trace where it is well-formed, else begin one."""
        given, parent = headers.get("x-trace-id", ""), headers.get("traceparent", "")
        return cls(
            id=given if _TRACE_ID.fullmatch(given) else secrets.token_hex(8),
            traceparent=parent if _TRACEPARENT.fullmatch(parent) else None,
            began=time.monotonic(),
        )


def trace_of(request: Request) -> Trace:
    """Return the trace of a request."""
    trace: Trace = request.scope[_STATE]
    return trace


def answer(
    request: Request,
    data: View | Sequence[View] | None = None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the envelope around the data; without data the member is absent."""
    written = "" if data is None else f'"data":{_written(data)},'
    return _response(trace_of(request), written, status=status, headers=headers)


def _written(data: View | Sequence[View]) -> str:
    if isinstance(data, View):
        return data.model_dump_json(by_alias=True, exclude_none=True)
    return f"[{','.join(map(_written, data))}]"


def failure(trace: Trace, error: TaskserverError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the envelope around an error; its HTTP status is the error's."""
    view = ErrorView(
        code=error.code,
        type=type(error).__name__,
        message=error.message,
        target=error.target,
        sub_errors=[
            SubErrorView(field=one.field, message=one.message, rejected_value=one.rejected_value)
            for one in error.sub_errors
        ]
        or None,
    )
    written = f'"error":{view.model_dump_json(by_alias=True, exclude_none=True)},'
    return _response(trace, written, status=error.status, headers=headers)


def _response(trace: Trace, member: str, *, status: int, headers: Mapping[str, str] | None) -> Response:
    successful = status < 400  # noqa: PLR2004 - where HTTP's errors begin
    rest = {
        "successful": successful,
        "timestamp": wire_time(datetime.now(UTC)),
        "duration": round((time.monotonic() - trace.began) * 1000),
        "status": status,
        "traceId": trace.id,
        "server": _SERVER,
    }
    body = "{" + member + json.dumps(rest, separators=(",", ":"))[1:]
    return Response(body, status_code=status, media_type=_JSON, headers=headers)


_SERVER = socket.gethostname()


class Tracing:
    """The outermost ASGI layer: a trace for each request, and an answer for what nobody expected."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer what nobody answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = scope[_STATE] = Trace.of(Headers(scope=scope))
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            with bound_contextvars(trace_id=trace.id):
                await self._app(scope, receive, watched)
        except Exception as error:
            _log.exception("unexpected error", action="request", trace_id=trace.id, method=scope["method"])
            if begun:
                raise
            await failure(trace, _unexpected(trace, error))(scope, receive, send)


class InternalError(TaskserverError):
    """Something that nobody expected."""


def _unexpected(trace: Trace, cause: Exception) -> TaskserverError:
    error = InternalError(f"unexpected error; the server's log tells more under trace {trace.id}")
    error.__cause__ = cause
    return error
