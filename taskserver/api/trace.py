"""What ties a request to its answer, its log lines and the task that it makes."""

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request
from starlette.types import Scope

_TRACE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
# OCP's, then BlueKing's, the newest first.
_NAMES = ("x-trace-id", "x-bkapi-request-id", "x-bkcmdb-rid", "cc_request_id")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = "taskserver_trace"


@dataclass(frozen=True, slots=True)
class Trace:
    """The ids of a request, and when it came."""

    id: str
    traceparent: str | None
    began: float

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Trace":
        """Take the caller's trace where it is well-formed, else begin one."""
        given = next((headers[name] for name in _NAMES if _TRACE_ID.fullmatch(headers.get(name, ""))), None)
        parent = headers.get("traceparent", "")
        return cls(
            id=given or secrets.token_hex(8),
            traceparent=parent if _TRACEPARENT.fullmatch(parent) else None,
            began=time.monotonic(),
        )


def trace_of(request: Request) -> Trace:
    """Return the trace of a request."""
    trace: Trace = request.scope[_STATE]
    return trace


def put_trace(scope: Scope, trace: Trace) -> None:
    """Note the trace where `trace_of` finds it."""
    scope[_STATE] = trace
