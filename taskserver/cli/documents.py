"""Reading what the user submits: a file, standard input, or a single kind with its arguments."""

import json
import sys
from pathlib import Path
from typing import Any

from schema.errors import InvalidArgument


def read_submission(file: str) -> dict[str, Any]:
    """Return the submission document of a file, or of standard input for `-`.

    Raises:
        InvalidArgument: It cannot be read, or is no JSON object.

    """
    source = "standard input" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        document = json.loads(text)
    except OSError as error:
        raise InvalidArgument(f"{source} cannot be read: {error.strerror}", target=file) from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{source} is not UTF-8 text", target=file) from error
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"{source} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", target=file
        ) from error
    if not isinstance(document, dict):
        raise InvalidArgument(f'{source} must hold a JSON object with "subtasks" or "definition"', target=file)
    return document


def single_subtask(kind: str, arguments: list[str]) -> dict[str, Any]:
    """Return the submission of one subtask; each argument is `name=value`, its value JSON or else plain text."""
    given: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"--arg {argument!r} is not name=value", target=argument)
        given[name] = _value(value)
    key = kind.rpartition(".")[2]
    return {"name": kind, "subtasks": [{"key": key, "kind": kind, "arguments": given}]}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
