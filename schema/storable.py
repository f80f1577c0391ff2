"""What PostgreSQL can keep as jsonb: checked before anything is stored, for submissions and results alike.

jsonb refuses NUL and lone surrogates inside text, and JSON has no NaN or Infinity; one such value deep in the arguments would
break the whole transaction with an error that names nothing.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schema.errors import TooLarge
from schema.limits import Limits
from schema.pointers import join_pointer

# Python refuses to read or write whole numbers of more than 4300 digits, jsonb takes more.
_MAX_INTEGER = 10**4000
Container = dict[str, object] | list[object]
Location = tuple[str | int, ...]

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class Unstorable:
    """A value that cannot be stored, or the name of a member: where it is and what is wrong with it."""

    pointer: str
    message: str
    value: object


def stored_size(value: object) -> int:
    """Return how many bytes the value takes as JSON."""
    return len(_ENCODER.encode(value).encode())


def check_stored_size(arguments: Mapping[str, object], field: str, whose: str, limits: Limits) -> int:
    """Return how many bytes the arguments take as stored.

    Raises:
        TooLarge: more than one row may hold.
    """
    size = stored_size(arguments)
    if size > limits.stored_bytes:
        raise TooLarge(
            f"{whose} take {size} bytes as JSON, at most {limits.stored_bytes} are stored (TASKSERVER_MAX_VALUE_BYTES): "
            "keep the data elsewhere and pass where it is",
            target=field,
        )
    return size


def find_unstorable(value: object, *, depth: int) -> Iterator[Unstorable]:
    """Yield each value that PostgreSQL cannot store as jsonb, or that is nested deeper than `depth` levels."""
    if (wrong := _wrong_with(value)) is not None:
        yield Unstorable("", wrong, value)
    # A stack, not recursion: the input may be nested as deep as its parser let it. Only containers go on it.
    stack: list[tuple[Container, Location]] = [(value, ())] if isinstance(value, (dict, list)) else []
    while stack:
        container, location = stack.pop()
        if len(location) >= depth:
            yield Unstorable(join_pointer(location), f"is nested deeper than {depth} levels: make it flatter", None)
            continue
        yield from _wrong_names(container, location)
        inner_containers: list[tuple[Container, Location]] = []
        for name, inner in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(inner, (dict, list)):
                inner_containers.append((inner, (*location, name)))
            elif (wrong := _wrong_with(inner)) is not None:
                yield Unstorable(join_pointer((*location, name)), wrong, inner)
        stack.extend(reversed(inner_containers))


def _wrong_names(container: Container, location: Location) -> Iterator[Unstorable]:
    for name in container if isinstance(container, dict) else ():
        wrong = _wrong_with_text(name) if isinstance(name, str) else f"is a {type(name).__name__}: names are text"
        if wrong is not None:
            yield Unstorable(join_pointer(location), f"has a member whose name {wrong}", name)


def _wrong_with(value: object) -> str | None:
    match value:
        case str():
            return _wrong_with_text(value)
        case None | bool() | dict() | list():
            return None
        case int():
            return "is a whole number of more than 4000 digits: give it as text" if abs(value) >= _MAX_INTEGER else None
        case float():
            return None if math.isfinite(value) else f"is {value}, which JSON does not have: give a number or null"
        case _:
            return f"is a {type(value).__name__}, not a JSON value: give an object, array, text, number, true, false or null"


def _wrong_with_text(text: str) -> str | None:
    if "\x00" in text:
        return "contains the character NUL, which cannot be stored: leave it out"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "contains half of a surrogate pair, which cannot be stored: give the whole character"
    return None
