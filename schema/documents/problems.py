"""Everything that is wrong with one document, gathered to be told in one answer.

A document with any problem of its graph or references is answered 400/20001, one with wrong fields only 400/10001; both name
each problem in `sub_errors`. Whatever text came from outside is made printable here: an answer that cannot be encoded would
hide the error that it carries.
"""

import json

from schema.errors import InvalidArgument, InvalidGraph, SubError

MAX_REPORTED = 50
_SHOWN_LENGTH = 200
QUOTED_LENGTH = 60
"""How much of a value stands inside a sentence."""


class Problems:
    """Collects problems and keeps the first fifty; whoever looks for them may stop when it is `full`."""

    def __init__(self, whole: str = "the submission") -> None:
        self._whole = whole  # what the document is, in words
        self._found: list[SubError] = []
        self._count = 0
        self._graph = False

    @property
    def full(self) -> bool:
        """Whether more have been noted than will be told."""
        return self._count > MAX_REPORTED

    def graph(self, field: str, message: str, value: object = None) -> None:
        """Note a problem of the graph or of a reference."""
        self._graph = True
        self._note(field, message, value)

    def argument(self, field: str, message: str, value: object = None) -> None:
        """Note a field whose value is wrong."""
        self._note(field, message, value)

    def raise_if_any(self) -> None:
        """Raise the error that names all problems noted, if there are any.

        Raises:
            InvalidGraph: at least one is about the graph or a reference.
            InvalidArgument: there are only wrong fields.
        """
        if not self._found:
            return
        first = self._found[0]
        message = f"{first.field or self._whole}: {first.message}"
        if self.full:
            message = f"more than {MAX_REPORTED} problems, the first: {message}"
        elif self._count > 1:
            message = f"{self._count} problems, the first: {message}"
        error = InvalidGraph if self._graph else InvalidArgument
        raise error(message, target=first.field or None, sub_errors=tuple(self._found))

    def _note(self, field: str, message: str, value: object) -> None:
        self._count += 1
        if self._count <= MAX_REPORTED:
            self._found.append(SubError(printable(field), printable(message), shortened(value)))


def printable(text: str) -> str:
    """Return the text with lone surrogates escaped, so that it can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()


def shortened(value: object, length: int = _SHOWN_LENGTH) -> object:
    """Return the value as it may stand in an error: small JSON as it is, all else as the beginning of its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _cut(printable(value), length)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=repr)
    except (ValueError, TypeError, RecursionError):
        # NaN, a number of thousands of digits, odd member names or endless nesting: only its sort can be told.
        return repr(value) if isinstance(value, float) else type(value).__name__
    if isinstance(value, (int, float)) and len(text) <= length:
        return value
    return _cut(printable(text), length)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"
