"""JSON Pointers (RFC 6901): split, join, follow.

Pure text and lookup. The one trap is the array index: only `0` or digits without a leading zero name an element; `-`, `+1`,
`01` and digits of other scripts name nothing.
"""

import re
from collections.abc import Iterable

from schema.errors import InvalidGraph

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")
_BAD_ESCAPE = re.compile(r"~(?![01])")
_SHOWN_LENGTH = 200


class BadReference(InvalidGraph):
    """A reference or its pointer is malformed, or leads to nothing."""


def split_pointer(pointer: str) -> tuple[str, ...]:
    """Return the tokens of a pointer, unescaped; the empty pointer has none.

    Raises:
        BadReference: it does not start with `/`, or `~` is followed by neither 0 nor 1.
    """
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise BadReference(
            f"{_shown(pointer)} is not a JSON Pointer: start it with '/', or give '' for the whole value"
        )
    if _BAD_ESCAPE.search(pointer):
        raise BadReference(f"{_shown(pointer)} is not a JSON Pointer: write '~' as '~0' and '/' inside a name as '~1'")
    return tuple(_unescape(token) for token in pointer[1:].split("/"))


def join_pointer(tokens: Iterable[str | int]) -> str:
    """Return the pointer made of these tokens, escaped."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def follow(pointer: str, document: object, *, within: str) -> object:
    """Return what the pointer names in the document; `within` says in words what the document is.

    Raises:
        BadReference: the pointer is malformed or leads nowhere; the message says how far it got.
    """
    tokens = split_pointer(pointer)
    here = document
    for depth, token in enumerate(tokens):
        if isinstance(here, dict) and token in here:
            here = here[token]
        elif isinstance(here, list) and _INDEX.fullmatch(token) and int(token) < len(here):
            here = here[int(token)]
        else:
            raise BadReference(_lost(pointer, tokens, depth, here, within))
    return here


def _lost(pointer: str, tokens: tuple[str, ...], depth: int, here: object, within: str) -> str:
    reached = join_pointer(tokens[:depth])
    where = f"at {_shown(reached)}" if reached else "at its top"
    return f"{_shown(pointer)} leads nowhere in {within}: {where} there is {_described(here)}, without {_shown(tokens[depth])}"


def _described(value: object) -> str:
    match value:
        case dict():
            names = ", ".join(_shown(str(name), 40) for name in list(value)[:10])
            return f"an object with {names}{', …' if len(value) > 10 else ''}" if value else "an empty object"  # noqa: PLR2004
        case list():
            return f"an array of {len(value)}"
        case str():
            return "a text"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            return "a number"


def _unescape(token: str) -> str:
    return token.replace("~1", "/").replace("~0", "~")


def _shown(text: str, length: int = _SHOWN_LENGTH) -> str:
    return repr(text if len(text) <= length else text[:length] + "…")
