"""Pydantic's complaints about a document, in plain words with the cure, each at its JSON Pointer."""

import difflib
from collections.abc import Callable, Collection

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schema.pointers import join_pointer
from taskserver.problems import Problems

KnownFields = Callable[[tuple[str | int, ...]], Collection[str]]

_WORDS = {
    "missing": "is required: add it",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "tuple_type": "must be an array",
    "timezone_aware": "must carry its offset from UTC: add Z or +08:00",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty: give a text or leave the field out",
    "string_too_long": "must be at most {max_length} characters",
    "literal_error": "must be one of {expected}",
    "value_error": "{error}",
}
_MOMENT = "must be a time such as 2026-12-01T00:00:00Z"


def note_field_errors(error: ValidationError, problems: Problems, known_fields: KnownFields) -> None:
    """Note each error of pydantic as a problem; `known_fields` names the fields that exist at a location."""
    for detail in error.errors(include_url=False):
        if problems.full:
            return
        location = detail["loc"]
        value = None if detail["type"] == "missing" else detail["input"]
        problems.argument(join_pointer(location), _in_words(detail, known_fields), value)


def _in_words(detail: ErrorDetails, known_fields: KnownFields) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_field(str(detail["loc"][-1]), known_fields(detail["loc"][:-1]))
    if kind.startswith("datetime"):
        return _MOMENT
    words = _WORDS.get(kind)
    return words.format(**detail.get("ctx", {})) if words else detail["msg"]


def _unknown_field(name: str, known: Collection[str]) -> str:
    # The length cap is for difflib, which is quadratic in it.
    folded = {field.lower(): field for field in known}
    close = difflib.get_close_matches(name[:100].replace("_", "").lower(), folded, n=1)
    if close:
        return f"is not a field here: did you mean {folded[close[0]]}?"
    return f"is not a field here: leave it out; the fields are {', '.join(sorted(known))}"
