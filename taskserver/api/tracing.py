"""The outermost layer of the application.

It gives each request its trace and its start time, and turns what nobody expected into a 500 in the envelope: the caller
learns the trace id, the log has the rest.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog import get_logger
from structlog.contextvars import bound_contextvars

from schema.errors import TaskserverError
from taskserver.api.dialect import Dialects
from taskserver.api.trace import Trace, put_trace

_log = get_logger("taskserver.api")


class Tracing:
    """The outermost ASGI layer: a trace for each request, and an answer for what nobody expected."""

    def __init__(self, app: ASGIApp, dialects: Dialects) -> None:
        self._app = app
        self._dialects = dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer what nobody answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = Trace.of(Headers(scope=scope))
        put_trace(scope, trace)
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
            response = self._dialects.failure(scope["path"], trace, _unexpected(trace, error))
            await response(scope, receive, send)


class InternalError(TaskserverError):
    """Something that nobody expected."""


def _unexpected(trace: Trace, cause: Exception) -> TaskserverError:
    error = InternalError(f"unexpected error; the server's log tells more under trace {trace.id}")
    error.__cause__ = cause
    return error
