"""Who asks, and whether the role covers the call: decided before anything is looked up.

A credential is read by the first scheme that recognises it. A scheme answers the name and the token it found; what makes a
token right is the same for all. Principals are remembered for about a second, so a revoked one is out by then.
"""

import base64
import binascii
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from schema.errors import Forbidden, Unauthenticated
from taskserver.principals import Principal, Role, Tokens
from taskserver.queries.principals import PrincipalRow, find_principal

_REMEMBERED_SECONDS = 1.0
_REMEMBERED_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request shows: a token, and the name where the scheme has one."""

    token: str
    name: str | None = None


Scheme = Callable[[Request], Credential | None]


def _bearer(request: Request) -> Credential | None:
    token = _of_scheme(request, "bearer")
    return Credential(token) if token is not None else None


def _basic(request: Request) -> Credential | None:
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


SCHEMES: tuple[Scheme, ...] = (_bearer, _basic)


class Authenticator:
    """Turns requests into principals."""

    def __init__(self, engine: Engine, tokens: Tokens, schemes: tuple[Scheme, ...] = SCHEMES) -> None:
        self._engine = engine
        self._schemes = schemes
        self.tokens = tokens
        self._remembered: dict[str, tuple[float, PrincipalRow]] = {}
        self._lock = threading.Lock()

    def principal(self, request: Request) -> Principal:
        """Return who asks.

        Raises:
            Unauthenticated: Nobody that is known.

        """
        for scheme in self._schemes:
            credential = scheme(request)
            if credential is not None:
                return self.verified(credential)
        raise _refused("no credential came with the request: send Authorization: Bearer TOKEN")

    def forget(self, name: str) -> None:
        """Look the principal up anew at the next request: it has just changed."""
        with self._lock:
            self._remembered.pop(name, None)

    def verified(self, credential: Credential) -> Principal:
        """Return whose credential it is.

        Raises:
            Unauthenticated: Nobody's, or nobody's any more.

        """
        # The token is checked before the database is asked, so that made-up tokens cost no query.
        name = self.tokens.owner(credential.token)
        if name is None or (credential.name is not None and credential.name != name):
            raise _refused("the token is not valid: ask an administrator for a new one")
        row = self._row(name)
        if row is None or not self.tokens.belongs_to(credential.token, row):
            raise _refused("the token is not valid any more: ask an administrator for a new one")
        return Principal(row.name, Role(row.role), row.account)

    def _row(self, name: str) -> PrincipalRow | None:
        now = time.monotonic()
        with self._lock:
            until, row = self._remembered.get(name, (now, None))
        if row is not None and now < until:
            return row
        row = find_principal(self._engine, name)
        if row is not None:
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


def _caller_of(request: Request) -> Principal:
    return _verifier_of(request).principal(request)


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
