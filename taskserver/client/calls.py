"""A call as a value: what goes to the server, and whether it may be made twice.

Knows the API's paths and nothing of connections. A POST carries an idempotency key, so that a lost answer never costs a
second task or a second verb.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import quote
from uuid import uuid4

from schema.errors import InvalidArgument
from schema.idempotency_keys import HEADER, check_key
from schema.main_api import PREFIX

# No name: an address drops them, also where they are escaped, and leads elsewhere then.
_NO_NAMES = frozenset({"", ".", ".."})

Value = str | int | float | Sequence[str]
Query = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the main API. `answer_seconds` is how long it may be silent, where that is not the client's own."""

    method: str
    path: str
    query: Query = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    answer_seconds: float | None = None

    @property
    def is_repeatable(self) -> bool:
        """Whether making the call twice does no more than making it once."""
        return self.method != "POST" or HEADER in self.headers

    def asking(self, **query: Value | None) -> Self:
        """Return the call with more query parameters; those that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return replace(self, query={**self.query, **given})

    def held(self, seconds: float, *, late_seconds: float) -> Self:
        """Return the call that lets the server hold its answer so long, until something changes."""
        return replace(self.asking(waitSeconds=round(seconds, 3)), answer_seconds=seconds + late_seconds)

    def unless(self, etag: str | None) -> Self:
        """Return the call for what differs from the answer of that ETag."""
        return self if etag is None else replace(self, headers={**self.headers, "If-None-Match": etag})

    def after(self, cursor: str) -> Self:
        """Return the call for what comes after the cursor; the lines of a tail have come by then."""
        return replace(
            self, query={name: self.query[name] for name in self.query if name != "tail"} | {"after": cursor}
        )


def get(*path: str | int) -> Call:
    """Return a call that reads."""
    return Call("GET", _path(path))


def put(*path: str | int, body: object) -> Call:
    """Return a call that stores a document under its name."""
    return Call("PUT", _path(path), body=_encoded(body))


def delete(*path: str | int) -> Call:
    """Return a call that removes what is there."""
    return Call("DELETE", _path(path))


def post(*path: str | int, body: object = None) -> Call:
    """Return a call that must not be made twice."""
    return Call("POST", _path(path), body=None if body is None else _encoded(body))


def post_once(*path: str | int, body: object = None, key: str | None) -> Call:
    """Return a call that the server carries out once under its idempotency key; without a key it has one of its own.

    Raises:
        InvalidArgument: The key is not one.

    """
    return replace(post(*path, body=body), headers={HEADER: uuid4().hex if key is None else check_key(key)})


def _path(parts: Sequence[str | int]) -> str:
    return "/".join([PREFIX, *(_part(str(one)) for one in parts)])


def _part(name: str) -> str:
    if name in _NO_NAMES:
        raise InvalidArgument(f"{name!r} cannot be part of an address: give another name", target=name)
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the name {name[:40]!r} cannot be sent: {error}") from error


def _encoded(document: object) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the document cannot be written as JSON: {error}") from error
