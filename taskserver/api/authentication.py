"""Who asks, and whether the role covers the call: decided before anything is looked up.

A credential is read by the first scheme that recognises it. A scheme answers what it found: a token, or a signature made
with one; what makes a token right is the same for all. Principals are remembered for about a second, so a revoked one is
out by then.
"""

import base64
import binascii
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Protocol

from fastapi import Depends, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from schema.errors import Forbidden, InvalidArgument, Unauthenticated
from schema.limits import SUBMISSION_BYTES
from taskserver.api import ocp_signature
from taskserver.api.bodies import parse_json, read_body
from taskserver.api.services import Services
from taskserver.principals import Principal, Role, Tokens
from taskserver.queries.principals import PrincipalRow, find_principal

_REMEMBERED_SECONDS = 1.0
_REMEMBERED_MOST = 10_000
APPLICATION_HEADER = "X-Bkapi-Authorization"


# Whom a credential is compared with that names nobody: refusing it takes as long as refusing a wrong one.
_NOBODY = PrincipalRow("", Role.TASK_VIEWER, "", 0, datetime.fromtimestamp(0, UTC))


class Proof(Protocol):
    """What a request shows to prove who asks."""

    @property
    def refusal(self) -> str:
        """What is said when it proves nothing."""

    def owner(self, tokens: Tokens) -> str | None:
        """Return whose it is, or pretends to be; None where it can be nobody's."""

    def is_by(self, principal: PrincipalRow, tokens: Tokens) -> bool:
        """Tell whether the principal's present token, or what was made with it, is shown."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A token, and the name where the scheme has one."""

    token: str
    name: str | None = None

    @property
    def refusal(self) -> str:
        """What is said when the token is not right."""
        return "the token is not valid, or not any more: ask an administrator for a new one"

    def owner(self, tokens: Tokens) -> str | None:
        """Return whose token it is, or was; None where it was not made here, or the name is another's."""
        owner = tokens.owner(self.token)
        return owner if self.name in {None, owner} else None

    def is_by(self, principal: PrincipalRow, tokens: Tokens) -> bool:
        """Tell whether it is the principal's present token."""
        return tokens.belongs_to(self.token, principal)


Scheme = Callable[[Request], Awaitable[Proof | None]]


async def _bearer(request: Request) -> Credential | None:
    token = _of_scheme(request, "bearer")
    return Credential(token) if token is not None else None


async def _basic(request: Request) -> Credential | None:
    encoded = _of_scheme(request, "basic")
    if encoded is None:
        return None
    try:
        name, colon, token = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise _refused("the Basic credential is not base64 of name:token") from None
    if not colon:
        raise _refused("the Basic credential is not base64 of name:token")
    return Credential(token, name)


def _of_scheme(request: Request, scheme: str) -> str | None:
    given, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if given.lower() == scheme else None


async def _signature(request: Request) -> ocp_signature.Signature | None:
    services: Services = request.app.state.services

    async def body() -> bytes:
        return await read_body(request, most=services.settings.limits.submission_bytes, setting=SUBMISSION_BYTES)

    return await ocp_signature.signature_of(request, body)


async def _application(request: Request) -> Credential | None:
    written = request.headers.get(APPLICATION_HEADER)
    if written is None:
        return None
    try:
        document = parse_json(written.encode("latin-1"))
    except InvalidArgument:  # its message would speak of a body
        document = None
    match document:
        case {"bk_app_code": str(name), "bk_app_secret": str(token)}:
            return Credential(token, name)
    raise _refused(f'{APPLICATION_HEADER} is not JSON of the form {{"bk_app_code": NAME, "bk_app_secret": TOKEN}}')


SCHEMES: tuple[Scheme, ...] = (_bearer, _basic, _signature, _application)


class Authenticator:
    """Turns requests into principals."""

    def __init__(self, engine: Engine, tokens: Tokens, schemes: tuple[Scheme, ...] = SCHEMES) -> None:
        self._engine = engine
        self._schemes = schemes
        self.tokens = tokens
        self._remembered: dict[str, tuple[float, PrincipalRow | None]] = {}
        self._lock = threading.Lock()

    async def proof(self, request: Request) -> Proof:
        """Return what the request shows; where it is signed, the body has been read.

        Raises:
            Unauthenticated: Nothing, or nothing that can be read.
            TooLarge: The body of a signed request is longer than any call takes.

        """
        for scheme in self._schemes:
            found = await scheme(request)
            if found is not None:
                return found
        if request.headers.get("authorization"):
            raise _refused(f"Authorization is of no known scheme: send Bearer TOKEN, Basic or {ocp_signature.SCHEME}")
        raise _refused("no credential came with the request: send Authorization: Bearer TOKEN")

    async def principal(self, request: Request) -> Principal:
        """Return who asks.

        Raises:
            Unauthenticated: Nobody that is known.

        """
        return await run_in_threadpool(self.verified, await self.proof(request))

    def forget(self, name: str) -> None:
        """Look the principal up anew at the next request: it has just changed."""
        with self._lock:
            self._remembered.pop(name, None)

    def verified(self, proof: Proof) -> Principal:
        """Return who has proven to be whom.

        Raises:
            Unauthenticated: Nobody's token, or nobody's any more.

        """
        # A token is checked before the database is asked, so that made-up ones cost no query.
        name = proof.owner(self.tokens)
        row = None if name is None else self._row(name)
        is_right = name is not None and proof.is_by(row or _NOBODY, self.tokens)
        if row is None or not is_right:
            raise _refused(proof.refusal)
        return Principal(row.name, Role(row.role), row.account)

    def _row(self, name: str) -> PrincipalRow | None:
        now = time.monotonic()
        with self._lock:
            until, row = self._remembered.get(name, (now, None))
        if now < until:
            return row
        row = find_principal(self._engine, name)
        with self._lock:
            if len(self._remembered) >= _REMEMBERED_MOST:
                self._remembered.clear()
            self._remembered[name] = (now + _REMEMBERED_SECONDS, row)
        return row


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(message)


def _verifier_of(request: Request) -> Authenticator:
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator


async def _proof_of(request: Request) -> Proof:
    return await _verifier_of(request).proof(request)


Shown = Annotated[Proof, Depends(_proof_of)]


def _caller_of(request: Request, shown: Shown) -> Principal:
    return _verifier_of(request).verified(shown)


Caller = Annotated[Principal, Depends(_caller_of)]


def _requires(role: Role) -> Callable[[Principal], Awaitable[Principal]]:
    async def principal(found: Caller) -> Principal:
        if not found.role.covers(role):
            raise Forbidden(f"{found.name} is {found.role}, the call needs {role}: ask an administrator")
        return found

    return principal


Verifier = Annotated[Authenticator, Depends(_verifier_of)]
Viewer = Annotated[Principal, Depends(_requires(Role.TASK_VIEWER))]
Submitter = Annotated[Principal, Depends(_requires(Role.TASK_SUBMITTER))]
Manager = Annotated[Principal, Depends(_requires(Role.TASK_MANAGER))]
Admin = Annotated[Principal, Depends(_requires(Role.ADMIN))]
