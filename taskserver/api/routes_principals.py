"""Principals: who may use the API. Administrators of account 0 reach all of them, others those of their account."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict

from schema.accounts import ACCOUNT_PATTERN, ACCOUNT_SPELLING, OWNER_ACCOUNT
from schema.documents.field_errors import validated
from schema.documents.problems import Problems
from schema.errors import Forbidden
from schema.main_api import PREFIX
from taskserver.api.authentication import Admin, Verifier
from taskserver.api.bodies import parse_json, read_body
from taskserver.api.documentation import ERRORS, json_body
from taskserver.api.envelope import EmptyEnvelope, Envelope, answer
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.principals import (
    Role,
    Tokens,
    create_principal,
    revoke_principal,
    rotate_principal,
)
from taskserver.projection import wire_time
from taskserver.queries.principals import PrincipalRow, list_principals
from taskserver.spelling import STORABLE, Spelled
from taskserver.views.registry import Principals, PrincipalView, PrincipalWithToken

_MAX_BODY_BYTES = 64 * 1024
_NAME = Spelled(
    "[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}",
    "must be 1 to 128 letters, digits, '_', '.', '@' and '-', the first a letter, digit or '_'",
)
_ACCOUNT = Spelled(ACCOUNT_PATTERN, f"must be {ACCOUNT_SPELLING}")

router = APIRouter(
    prefix=f"{PREFIX}/principals",
    tags=["principals"],
    responses=ERRORS,
    dependencies=[Depends(refuse_unknown_parameters)],
)

Name = Annotated[str, STORABLE, Path(min_length=1, max_length=128, description="The principal's name.")]


class NewPrincipal(BaseModel):
    """A principal to create."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, _NAME]
    role: Role
    account: Annotated[str, _ACCOUNT] = OWNER_ACCOUNT


@router.get("", response_model=Envelope[Principals], summary="List principals")
def get_principals(request: Request, principal: Admin, served: Served) -> Response:
    """Return the principals in the caller's reach; tokens are never shown again."""
    rows = list_principals(served.engine, account=principal.account_in_reach)
    return answer(request, Principals(contents=[PrincipalView(**_members(row)) for row in rows]))


async def _body(request: Request, _principal: Admin) -> bytes:
    return await read_body(request, most=_MAX_BODY_BYTES)


@router.post(
    "",
    response_model=Envelope[PrincipalWithToken],
    status_code=201,
    summary="Create a principal",
    openapi_extra=json_body("NewPrincipal"),
)
def post_principals(
    request: Request, principal: Admin, served: Served, verifier: Verifier, body: Annotated[bytes, Depends(_body)]
) -> Response:
    """Create a principal and return its token, which is shown only now."""
    wanted = _parse(parse_json(body))
    if principal.account_in_reach not in {None, wanted.account}:
        raise Forbidden(f"{principal.name} administers only account {principal.account}", target=wanted.account)
    row = create_principal(served.engine, name=wanted.name, role=wanted.role, account=wanted.account)
    verifier.forget(row.name)
    return answer(request, _with_token(row, verifier.tokens), status=201)


@router.post("/{name}/rotate", response_model=Envelope[PrincipalWithToken], summary="Rotate a token")
def post_rotate(request: Request, principal: Admin, served: Served, verifier: Verifier, name: Name) -> Response:
    """Make a new token for the principal; the old one ends."""
    row = rotate_principal(served.engine, verifier.tokens, name, by=principal)
    verifier.forget(name)
    return answer(request, _with_token(row, verifier.tokens))


@router.delete("/{name}", response_model=EmptyEnvelope, summary="Remove a principal")
def delete_principal(request: Request, principal: Admin, served: Served, verifier: Verifier, name: Name) -> Response:
    """Remove the principal; its token ends."""
    revoke_principal(served.engine, name, by=principal)
    verifier.forget(name)
    return answer(request)


def _parse(document: object) -> NewPrincipal:
    return validated(NewPrincipal, document, Problems(), lambda _: list(NewPrincipal.model_fields))


def _members(row: PrincipalRow) -> dict[str, object]:
    return {
        "name": row.name,
        "role": row.role,
        "account": row.account,
        "serial": row.serial,
        "create_time": wire_time(row.created_at),
    }


def _with_token(row: PrincipalRow, tokens: Tokens) -> PrincipalWithToken:
    return PrincipalWithToken.model_validate(_members(row) | {"token": tokens.token(row.name, row.serial)})
