"""Every error as an answer in the envelope of its address: ours by their own status and code, the framework's by what they mean."""

from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from schema.database import translate
from schema.documents.field_errors import in_words
from schema.documents.problems import QUOTED_LENGTH, printable, shortened
from schema.errors import (
    InvalidArgument,
    NotFound,
    RateLimited,
    SubError,
    TaskserverError,
    Unauthenticated,
    Unavailable,
)
from taskserver.api.dialect import Dialects
from taskserver.api.ocp_signature import SCHEME
from taskserver.api.trace import trace_of

_RETRY_SECONDS = "1"
_LIMITED_SECONDS = "5"
_CHALLENGES = f'Bearer realm="taskserver", Basic realm="taskserver", charset="UTF-8", {SCHEME} realm="taskserver"'
_NOT_FOUND = 404
_NOT_ALLOWED = 405


class MethodNotAllowed(TaskserverError):
    """The address is there, the method is not."""

    status = 405
    code = 10005


class BadRequest(InvalidArgument):
    """The request as such is malformed."""


def add_error_handlers(app: FastAPI) -> None:
    """Make the application answer errors in the envelope."""
    app.add_exception_handler(TaskserverError, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(PoolTimeoutError, _database)


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, TaskserverError)
    return _answer(request, error, _headers(error))


def _answer(request: Request, error: TaskserverError, headers: Mapping[str, str]) -> Response:
    dialects: Dialects = request.app.state.dialects
    return dialects.failure(request.scope["path"], trace_of(request), error, headers)


def _headers(error: TaskserverError) -> Mapping[str, str]:
    if isinstance(error, Unavailable):
        return {"Retry-After": _RETRY_SECONDS}
    if isinstance(error, RateLimited):
        return {"Retry-After": _LIMITED_SECONDS}
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": _CHALLENGES}
    return {}


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = tuple(
        SubError(
            field=str(item["loc"][1]),
            message=printable(in_words(item)),
            rejected_value=None if item["type"] == "missing" else shortened(item["input"]),
        )
        for item in error.errors()
    )
    first = problems[0]
    given = "" if first.rejected_value is None else f" (given: {shortened(first.rejected_value, QUOTED_LENGTH)!r})"
    message = f"parameter {first.field} {first.message}{given}"
    return _ours(request, InvalidArgument(message, target=first.field, sub_errors=problems))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = printable(request.url.path)
    if error.status_code == _NOT_FOUND:
        return _ours(request, NotFound(f"there is nothing at {path}: /openapi.json lists the calls", target=path))
    if error.status_code == _NOT_ALLOWED:
        allowed = ", ".join(_allowed_methods(request))
        refused = MethodNotAllowed(f"{request.method} is not possible at {path}: use {allowed}", target=path)
        return _answer(request, refused, {"Allow": allowed})
    return _ours(request, BadRequest(printable(str(error.detail))))


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes at the address; the framework names those of the first one only."""
    methods: set[str] = set()
    for route in request.app.state.calls:
        match, _ = route.matches(request.scope)
        if match is Match.PARTIAL:
            methods |= route.methods
    return sorted(methods)


def _database(request: Request, error: Exception) -> Response:
    if not isinstance(error, DBAPIError):
        return _ours(request, Unavailable("PostgreSQL does not answer; the call can be made again"))
    unavailable = translate(error.orig, broken=error.connection_invalidated)
    if unavailable is None:
        raise error
    return _ours(request, unavailable)
