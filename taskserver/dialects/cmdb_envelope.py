"""The envelope of the BK-CMDB dialect, around answers and errors.

Its clients read `result` and `bk_error_code`, whatever the HTTP status is. So what is wrong with a document is answered with 200,
like the original's; who may not ask, an address that is not there and a server that is away keep their status.
"""

import json
from collections.abc import Mapping

from fastapi import Request, Response

from schema.errors import (
    Conflict,
    DuplicateInstance,
    Invalid,
    NotFound,
    RateLimited,
    Refused,
    TaskserverError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from taskserver.api.documentation import Responses
from taskserver.api.errors import MethodNotAllowed
from taskserver.api.trace import Trace, trace_of
from taskserver.dialects.cmdb_views import CmdbFailure

SUCCESS = "success"
FAILURES: Responses = {
    401: {"model": CmdbFailure, "description": "No valid credential."},
    403: {"model": CmdbFailure, "description": "The role does not cover the call."},
    503: {"model": CmdbFailure, "description": "A server is away; Retry-After says when to ask again."},
    "default": {"model": CmdbFailure, "description": "Any other error."},
}
_REQUEST_ID = "Cc_Request_Id"
# The original's numbers; of an error's classes the first one here counts.
_CODES: tuple[tuple[type[TaskserverError], int], ...] = (
    (DuplicateInstance, 1117008),
    (Conflict, 1199014),
    (TooLarge, 1199015),
    (Invalid, 1199006),
    (Unauthenticated, 1199027),
    (RateLimited, 1199997),
    (Refused, 9900403),
    (NotFound, 1199019),
    (MethodNotAllowed, 1199003),
    (Unavailable, -1),
)
_UNEXPECTED = 1199999


def answer(request: Request, data: object) -> Response:
    """Return the envelope around what was asked for."""
    document = {"result": True, "bk_error_code": 0, "bk_error_msg": SUCCESS, "permission": None, "data": data}
    return _response(trace_of(request), document)


def failure(trace: Trace, error: TaskserverError, headers: Mapping[str, str]) -> Response:
    """Return the envelope that says what went wrong."""
    document = {
        "result": False,
        "bk_error_code": next((code for sort, code in _CODES if isinstance(error, sort)), _UNEXPECTED),
        "bk_error_msg": error.message,
        "permission": None,
        "data": None,
    }
    status = 200 if isinstance(error, (Invalid, Conflict)) else error.status
    return _response(trace, document, status=status, headers=headers)


def _response(
    trace: Trace, document: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    given = {**(headers or {}), _REQUEST_ID: trace.id}
    return Response(body, status_code=status, media_type="application/json", headers=given)
