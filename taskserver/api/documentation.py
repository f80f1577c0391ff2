"""What the API says about itself: the OpenAPI document, and a page for people made from it.

The page needs nothing from elsewhere, because servers are often where no other host can be reached.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from taskserver.api.authentication import APPLICATION_HEADER
from taskserver.api.envelope import ErrorEnvelope
from taskserver.api.ocp_signature import SCHEME

Responses = dict[int | str, dict[str, Any]]

UNAVAILABLE: Responses = {
    503: {"model": ErrorEnvelope, "description": "A server is away; Retry-After says when to ask again."}
}
ERRORS: Responses = {
    400: {"model": ErrorEnvelope, "description": "A parameter or the body is wrong; subErrors names each."},
    401: {"model": ErrorEnvelope, "description": "No valid credential."},
    403: {"model": ErrorEnvelope, "description": "The role does not cover the call."},
    404: {"model": ErrorEnvelope, "description": "Not there, or another account's."},
    "default": {"model": ErrorEnvelope, "description": "Any other error."},
    **UNAVAILABLE,
}
NOT_MODIFIED: Responses = {304: {"description": "The ETag of If-None-Match still holds."}}

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A principal's token."},
    "basic": {"type": "http", "scheme": "basic", "description": "A principal's name, and its token as the password."},
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": f"OCP's AK/SK: `{SCHEME} NAME:SIGNATURE`, signed with the principal's token, and a Date header.",
    },
    "application": {
        "type": "apiKey",
        "in": "header",
        "name": APPLICATION_HEADER,
        "description": '`{"bk_app_code": NAME, "bk_app_secret": TOKEN}`: a principal\'s name and token.',
    },
}
_OPEN_PATHS = {"/healthz", "/readyz"}
# Bodies have names of their own: a submitted Subtask is another thing than an answered one.
_BODY_SCHEMA = "{model}Input"
_REFERENCE = "#/components/schemas/" + _BODY_SCHEMA


def json_body(model: str, *, required: bool = True) -> dict[str, Any]:
    """Return what an operation says about a body that it reads by itself."""
    return _body({"$ref": _REFERENCE.format(model=model)}, required=required)


def json_array_body(model: str, *, most: int) -> dict[str, Any]:
    """Return what an operation says about a body that is a list, which it reads by itself."""
    items = {"$ref": _REFERENCE.format(model=model)}
    return _body({"type": "array", "items": items, "minItems": 1, "maxItems": most})


def _body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI, bodies: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    """Return the OpenAPI document; `bodies` are the models that `json_body` named."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    _, definitions = models_json_schema([(one, "validation") for one in bodies], ref_template=_REFERENCE)
    components = document.setdefault("components", {})
    named = {_BODY_SCHEMA.format(model=name): schema for name, schema in definitions["$defs"].items()}
    components["schemas"] = {**components.get("schemas", {}), **named}
    components["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path in _OPEN_PATHS else [{name: []} for name in _SCHEMES]
    return document


def page(document: dict[str, Any]) -> str:
    """Return the document as a page for people."""
    title = escape(document["info"]["title"])
    calls = "".join(_call(*one) for one in _operations(document))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(document['info'].get('description', ''))}</p>"
        f'<p><a href="/openapi.json">/openapi.json</a></p>{calls}</html>'
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{font-size:1.05em}td{padding:.1rem 1rem .1rem 0;vertical-align:top}h2{margin-top:2rem}"
)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def _call(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}</td>"
        f"<td>{escape(one.get('description', ''))}</td></tr>"
        for one in operation.get("parameters", ())
    )
    return (
        f"<h2>{escape(operation.get('summary', ''))}</h2><p><code>{method} {escape(path)}</code></p>"
        f"<p>{escape(operation.get('description', ''))}</p><table>{rows}</table>"
    )
