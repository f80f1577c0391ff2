"""Reading what the user submits: a file, standard input, a definition's name, or a single kind; and its arguments."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schema.errors import InvalidArgument, SubError
from schema.pointers import join_pointer

_TEXT_WANTED = 'is not of type "string"'  # the words of the check by a kind's schema


def read_submission(file: str, *, needs: str = '"subtasks" or "definition"') -> dict[str, Any]:
    """Return the submission document of a file, or of standard input for `-`; or another one, with what it needs.

    Raises:
        InvalidArgument: It cannot be read, or is no JSON object.

    """
    source = "standard input" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        document = json.loads(text, parse_constant=_no_number)
    except OSError as error:
        raise InvalidArgument(f"{source} cannot be read: {error.strerror}", target=file) from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{source} is not UTF-8 text", target=file) from error
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"{source} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", target=file
        ) from error
    except RecursionError as error:
        raise InvalidArgument(f"{source} is nested too deep", target=file) from error
    except _NotANumber as error:
        raise InvalidArgument(f"{source} is not JSON: {error} is no number there", target=file) from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"{source} must hold a JSON object with {needs}", target=file)
    return document


def with_arguments(document: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the submission with task arguments from the command line, which come before its own."""
    if not arguments:
        return document
    own = document.get("arguments", {})
    if not isinstance(own, dict):
        raise InvalidArgument(
            '"arguments" of the file is no JSON object, so --arg has nothing to add to', target="arguments"
        )
    return {**document, "arguments": {**own, **named_values(arguments)}}


def single_subtask(kind: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the submission of one subtask, with the arguments for it."""
    key = kind.rpartition(".")[2]
    return {"name": kind, "subtasks": [{"key": key, "kind": kind, "arguments": named_values(arguments)}]}


def named_values(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of `name=value` words by name; a value is JSON or else plain text.

    Raises:
        InvalidArgument: A word has no name or no equals sign.

    """
    given: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"--arg {argument!r} is not name=value", target=argument)
        given[name] = _value(value)
    return given


def text_cure(problems: Sequence[SubError], arguments: Sequence[str]) -> str:
    """Return how to write those words of `single_subtask` again that are JSON where a text is wanted; empty if none is."""
    refused = {one.field for one in problems if _TEXT_WANTED in one.message}
    words = [(name, text) for name, _, text in (argument.partition("=") for argument in arguments)]
    again = [
        "--arg " + shlex.quote(f"{name}={json.dumps(text, ensure_ascii=False)}")
        for name, text in words
        if join_pointer(("subtasks", 0, "arguments", name)) in refused
        and not isinstance(_value(text), str | list | dict)
    ]
    return f"; write {' '.join(again)} to give a text" if again else ""


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (json.JSONDecodeError, _NotANumber):
        return text


class _NotANumber(Exception):
    """Python reads NaN and Infinity as numbers; JSON does not have them."""


def _no_number(word: str) -> Any:
    raise _NotANumber(word)
