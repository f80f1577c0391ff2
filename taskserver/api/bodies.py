"""Reading a JSON body strictly: what two parsers could understand differently is refused before anyone acts on it.

A body comes once. It is kept with the request, because a signature covers it and is checked before the call reads it.
"""

import json
import math
from typing import Any

from fastapi import Request

from schema.documents.problems import printable
from schema.errors import InvalidArgument, TooLarge

_SHOWN = 60
_KEPT = "taskserver_body"


async def read_body(request: Request, *, most: int, setting: str | None = None) -> bytes:
    """Return the body, also one that was read before; parsing it is left to a thread, because a large one takes a while.

    Raises:
        TooLarge: It has more than `most` bytes; the error names the setting that says how many, if there is one.

    """
    kept: bytes | None = request.scope.get(_KEPT)
    if kept is None:
        kept = request.scope[_KEPT] = await _received(request, most, setting)
    if len(kept) > most:
        raise _too_large(most, setting)
    return kept


async def _received(request: Request, most: int, setting: str | None) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
        raise _too_large(most, setting)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _too_large(most, setting)
    return bytes(body)


def _too_large(most: int, setting: str | None) -> TooLarge:
    named = "" if setting is None else f" ({setting})"
    return TooLarge(f"the body has more than {most} bytes{named}: submit less at once, or keep the data elsewhere")


def parse_json(body: bytes) -> object:
    """Return the document; refuse NaN, numbers that overflow, duplicate names, a BOM, and all that is not UTF-8.

    Raises:
        InvalidArgument: It is no JSON, or is ambiguous.

    """
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidArgument("the body begins with a byte order mark: send plain UTF-8")
    try:
        return json.loads(body.decode(), object_pairs_hook=_members, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the body is not UTF-8: byte {error.start} is wrong") from None
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise InvalidArgument("the body is nested too deep: make it flatter") from None
    except ValueError:
        raise InvalidArgument("the body holds a whole number of thousands of digits: give it as text") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in members if names.count(name) > 1)
        raise InvalidArgument(f"the body has the member {_shown(twice)} twice in one object: keep one")
    return members


def _no_constant(name: str) -> object:
    raise InvalidArgument(f"the body holds {name}, which JSON does not have: give a number or null")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidArgument(f"the number {_shown(digits)} is too large: give a smaller one, or a text")
    return number


def _shown(text: str) -> str:
    return repr(printable(text if len(text) <= _SHOWN else text[:_SHOWN] + "…"))
