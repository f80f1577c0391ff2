"""Kinds and workers, as the workers registered them."""

from fastapi import APIRouter, Depends, Request, Response

from schema.main_api import PREFIX
from taskserver.api.authentication import Viewer
from taskserver.api.documentation import ERRORS
from taskserver.api.envelope import Envelope, answer
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.queries.registry import known_workers, registered_kinds
from taskserver.views.registry import Kinds, Workers

router = APIRouter(
    prefix=PREFIX, tags=["registry"], responses=ERRORS, dependencies=[Depends(refuse_unknown_parameters)]
)


@router.get("/kinds", response_model=Envelope[Kinds], summary="List kinds")
def get_kinds(request: Request, _principal: Viewer, served: Served) -> Response:
    """Return every kind of work that workers have registered, with the schemas of its arguments and result."""
    return answer(request, registered_kinds(served.engine))


@router.get("/workers", response_model=Envelope[Workers], summary="List workers")
def get_workers(request: Request, _principal: Viewer, served: Served) -> Response:
    """Return the workers that live, or were heard of in the last hour."""
    return answer(request, known_workers(served.engine, silence_seconds=served.settings.dead_after_seconds))
