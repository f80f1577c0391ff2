"""The OpenAPI document and its page, for those who may read."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from taskserver.api.authentication import Viewer
from taskserver.api.documentation import page

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def get_openapi(request: Request, _principal: Viewer) -> Response:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
def get_docs(request: Request, _principal: Viewer) -> Response:
    """Return the page."""
    return HTMLResponse(page(request.app.openapi()))
