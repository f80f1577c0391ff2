"""OCP's envelope around every answer of the main API."""

import json
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from fastapi import Request, Response
from pydantic import Field

from schema.errors import TaskserverError
from taskserver.api.trace import Trace, trace_of
from taskserver.projection import wire_time
from taskserver.views.view import Moment, View

T = TypeVar("T")

_JSON = "application/json"


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
