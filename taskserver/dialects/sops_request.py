"""What a call of bk-sops' API asks, and whose credential it bears: the parameters of its query and its body together.

Clients of the original send the same parameters in the query of a GET, or in a POST as JSON or as a form, with the right content
type, with none, or with a wrong one; so what the body is it tells itself. The credential may be among them: no message
says what was given.
"""

from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from schema.documents.field_errors import in_words
from schema.documents.problems import printable
from schema.errors import InvalidArgument, Unauthenticated
from taskserver.api.authentication import APPLICATION_HEADER, Credential, Verifier
from taskserver.api.bodies import parse_json, read_body
from taskserver.principals import Principal
from taskserver.spelling import STORABLE, Spelled

_MOST_BYTES = 64 * 1024
_MOST_FIELDS = 200
_FORM = "application/x-www-form-urlencoded"
_CREDENTIAL_HEADERS = ("Authorization", APPLICATION_HEADER)


class Question(BaseModel):
    """The parameters. Others are ignored, because the gateway before the original adds some of its own."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bk_app_code: str | None = Field(
        None, description="A principal's name; needed unless a header bears the credential."
    )
    bk_app_secret: str | None = Field(None, description="Its token.")
    bk_token: str | None = Field(None, description="Accepted and not needed.")
    bk_username: str | None = Field(None, description="Accepted and not needed.")
    bk_biz_id: Annotated[str, Field(min_length=1, max_length=64), STORABLE] = Field(
        description="The bizId that the task was submitted with; a task without one is found for each."
    )
    task_id: Annotated[
        str,
        Spelled(
            "[0-9]{1,18}|[0-9a-fA-F]{32}", "must be the number of a task, or the 32 hex digits of a task or a node"
        ),
    ] = Field(description="The number of a task, or the 32 hex digits of a task or of one of its nodes.")
    with_ex_data: bool = Field(False, description="Say in ex_data why nodes have failed.")


_NAMES = frozenset(Question.model_fields)


async def _parameters_of(request: Request) -> dict[str, str]:
    """Return the parameters by name, as texts; what is empty or null counts as not given.

    Raises:
        InvalidArgument: The body cannot be read, or a parameter is given twice with different values.

    """
    body = await read_body(request, most=_MOST_BYTES)
    found: dict[str, str] = {}
    for name, value in (*request.query_params.multi_items(), *_members(body, request)):
        if name not in _NAMES or value is None or value == "":
            continue
        text = _text(name, value)
        if found.setdefault(name, text) != text:
            raise InvalidArgument(f"{name} is given twice with different values: give it once", target=name)
    return found


def _members(body: bytes, request: Request) -> Iterable[tuple[str, Any]]:
    if not body.strip():
        return ()
    if request.headers.get("content-type", "").startswith(_FORM) and not body.lstrip().startswith(b"{"):
        return _form_members(body)
    document = parse_json(body)
    if not isinstance(document, dict):
        raise InvalidArgument("the body is not a JSON object: give the parameters as its members")
    return document.items()


def _form_members(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise InvalidArgument("the body is not a form in UTF-8 with a few fields: send JSON, or fewer fields") from None


def _text(name: str, value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case _:
            raise InvalidArgument(f"{name} must be a text or a number", target=name)


Given = Annotated[dict[str, str], Depends(_parameters_of)]


async def _caller(request: Request, given: Given, verifier: Verifier) -> Principal:
    """Return who asks: by the parameters where they hold a whole credential, else by a header."""
    code, secret = given.get("bk_app_code"), given.get("bk_app_secret")
    if code is not None and secret is not None:
        return await run_in_threadpool(verifier.verified, Credential(secret, code))
    if not any(name in request.headers for name in _CREDENTIAL_HEADERS):
        raise Unauthenticated(
            "bk_app_code or bk_app_secret is missing: send a principal's name and its token, "
            f"or the header {APPLICATION_HEADER} with both"
        )
    return await verifier.principal(request)


Caller = Annotated[Principal, Depends(_caller)]


def _question(_caller: Caller, given: Given) -> Question:
    """Return what is asked; who is not known learns nothing about it.

    Raises:
        InvalidArgument: A parameter is missing or wrong.

    """
    try:
        return Question.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise InvalidArgument(f"{name} {printable(in_words(first))}", target=name) from None


Asked = Annotated[Question, Depends(_question)]
