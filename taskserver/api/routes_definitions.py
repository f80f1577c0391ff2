"""Definitions: the task types of the caller's account, in versions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from schema.limits import SUBMISSION_BYTES
from schema.main_api import PREFIX
from taskserver.api.authentication import Admin, Viewer
from taskserver.api.bodies import parse_json, read_body
from taskserver.api.documentation import ERRORS, json_body
from taskserver.api.envelope import EmptyEnvelope, Envelope, answer
from taskserver.api.parameters import MAX_PAGE, MAX_PAGE_SIZE
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.definition_changes import delete_definition, put_definition
from taskserver.queries.definitions import list_definitions, list_versions, show_definition
from taskserver.spelling import STORABLE
from taskserver.views.definitions import Definition, Definitions, DefinitionVersions

_MAX_VERSION = 2**31 - 1

router = APIRouter(
    prefix=f"{PREFIX}/definitions",
    tags=["definitions"],
    responses=ERRORS,
    dependencies=[Depends(refuse_unknown_parameters)],
)

Name = Annotated[str, STORABLE, Path(min_length=1, max_length=200, description="The definition's name, the task type.")]
PageNumber = Annotated[int, Query(ge=1, le=MAX_PAGE, description="From 1.")]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="Versions on a page.")]
Version = Annotated[int | None, Query(ge=1, le=_MAX_VERSION, description="The newest one without it.")]


@router.get("", response_model=Envelope[Definitions], summary="List definitions")
def get_definitions(request: Request, principal: Viewer, served: Served) -> Response:
    """Return the newest version of each definition; beyond 4 MiB together the largest are without subtasks and arguments."""
    return answer(request, list_definitions(served.engine, account=principal.account))


@router.get("/{name}", response_model=Envelope[Definition], summary="Show a definition")
def get_definition(
    request: Request, principal: Viewer, served: Served, name: Name, version: Version = None
) -> Response:
    """Return the newest version, or the one asked for; that one also if it is deleted, because tasks keep it."""
    return answer(request, show_definition(served.engine, name, account=principal.account, version=version))


@router.get(
    "/{name}/versions", response_model=Envelope[DefinitionVersions], summary="List the versions of a definition"
)
def get_versions(
    request: Request,
    principal: Viewer,
    served: Served,
    name: Name,
    *,
    page: PageNumber = 1,
    size: PageSize = MAX_PAGE_SIZE,
) -> Response:
    """Return one page of the versions, the newest first, without their documents; deleted ones too."""
    return answer(request, list_versions(served.engine, name, account=principal.account, page=page, size=size))


async def _body(request: Request, _principal: Admin, served: Served) -> bytes:
    return await read_body(request, most=served.settings.limits.submission_bytes, setting=SUBMISSION_BYTES)


@router.put(
    "/{name}",
    response_model=Envelope[Definition],
    status_code=201,
    summary="Put a definition",
    responses={200: {"model": Envelope[Definition], "description": "Nothing changed: this is the version there is."}},
    openapi_extra=json_body("Definition"),
)
def put_one(
    request: Request, principal: Admin, served: Served, name: Name, body: Annotated[bytes, Depends(_body)]
) -> Response:
    """Store the document as the next version; an unchanged one makes none. Tasks that exist keep theirs."""
    stored = put_definition(served.engine, name, parse_json(body), by=principal, settings=served.settings)
    shown = show_definition(served.engine, name, account=principal.account, version=stored.version)
    return answer(request, shown, status=201 if stored.is_new else 200)


@router.delete("/{name}", response_model=EmptyEnvelope, summary="Delete a definition")
def delete_one(request: Request, principal: Admin, served: Served, name: Name) -> Response:
    """End the definition: no more tasks are made of it. Tasks that exist keep their version, also in a retry."""
    delete_definition(served.engine, name, by=principal)
    return answer(request)
