"""Pydantic's complaints about a document, in plain words with the cure, each at its JSON Pointer."""

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schema.documents.problems import Problems
from schema.pointers import join_pointer

KnownFields = Callable[[tuple[str | int, ...]], Collection[str]]
_Model = TypeVar("_Model", bound=BaseModel)

_WORDS = {
    "missing": "is required: add it",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number: give digits only",
    "int_parsing_size": "has too many digits: give a smaller number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "finite_number": "must be a finite number",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "tuple_type": "must be an array",
    "list_type": "must be an array",
    "timezone_aware": "must carry its offset from UTC: add Z or +08:00",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty: give a text or leave the field out",
    "string_too_long": "must be at most {max_length} characters",
    "too_short": "must have at least {min_length} element(s)",
    "too_long": "must have at most {max_length} elements",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "value_error": "{error}",
}
_MOMENT = "must be a time such as 2026-12-01T00:00:00Z"


def validated(model: type[_Model], document: object, problems: Problems, known_fields: KnownFields) -> _Model:
    """Return what the document says; each field that is wrong becomes a problem, and they are raised together.

    Args:
        model: What the document must be.
        document: It.
        problems: Those found until now.
        known_fields: Names the fields that exist at a location.

    Raises:
        InvalidArgument: Fields are wrong; `sub_errors` names each.

    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        _note_field_errors(error, problems, known_fields)
        problems.raise_if_any()
        raise  # unreachable as long as pydantic names at least one error


def _note_field_errors(error: ValidationError, problems: Problems, known_fields: KnownFields) -> None:
    """Note each error of pydantic as a problem; `known_fields` names the fields that exist at a location."""
    for detail in error.errors(include_url=False):
        if problems.full:
            return
        location = detail["loc"]
        value = None if detail["type"] == "missing" else detail["input"]
        if detail["type"] == "extra_forbidden":
            message = unknown_name(str(location[-1]), known_fields(location[:-1]))
        else:
            message = in_words(detail)
        problems.argument(join_pointer(location), message, value)


def in_words(detail: ErrorDetails) -> str:
    """Return one complaint in plain words, to stand behind the name of what it is about."""
    kind = detail["type"]
    if kind.startswith("datetime"):
        return _MOMENT
    if kind in {"too_short", "too_long"} and isinstance(detail["input"], str):
        kind = f"string_{kind}"  # behind another check pydantic counts a text's characters as elements
    words = _WORDS.get(kind)
    return words.format(**_plain_numbers(detail.get("ctx", {}))) if words else detail["msg"]


def _plain_numbers(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: int(one) if isinstance(one, float) and one.is_integer() else one for name, one in context.items()}


def unknown_name(name: str, known: Collection[str], *, sort: str = "field") -> str:
    """Return the complaint about a name that is none of the known ones, with the one that may be meant."""
    # The length cap is for difflib, which is quadratic in it.
    folded = {field.lower(): field for field in known}
    close = difflib.get_close_matches(name[:100].replace("_", "").lower(), folded, n=1)
    if close:
        return f"is not a {sort} here: did you mean {folded[close[0]]}?"
    choice = f"the {sort}s are {', '.join(sorted(known))}" if known else "there are none"
    return f"is not a {sort} here: leave it out; {choice}"
