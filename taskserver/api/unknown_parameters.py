"""Refuses parameters that a call does not have: a misspelt filter would quietly filter nothing."""

from fastapi import Request

from schema.documents.field_errors import unknown_name
from schema.documents.problems import Problems
from taskserver.api.authentication import Caller

_CACHE_BUSTER = "_"  # clients in browsers add it, so that no cache answers for the server


async def refuse_unknown_parameters(request: Request, _caller: Caller) -> None:
    """Refuse a GET with a parameter that its description does not name; who is not known learns nothing.

    Raises:
        InvalidArgument: It names each unknown parameter, and the known one that may be meant.

    """
    if request.method != "GET" or not request.query_params:
        return
    known = _known_parameters(request)
    problems = Problems()
    for name in request.query_params:
        if name not in known and name != _CACHE_BUSTER:
            problems.argument(name, unknown_name(name, known, sort="parameter"), request.query_params[name])
    problems.raise_if_any()


def _known_parameters(request: Request) -> set[str]:
    call = request.app.openapi()["paths"][request.scope["route"].path_format]["get"]
    return {one["name"] for one in call.get("parameters", ()) if one["in"] == "query"}
