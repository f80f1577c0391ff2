"""How a command ends: the exit codes, and what an error says.

An error is told in words on standard error, always. With `--json` it is also the one document on standard output, in the
form of the API's own errors, so that a program reads one stream in every case.
"""

import signal
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from schema.errors import Invalid, TaskserverError, Unavailable
from taskserver.client import ServerRefused

MAX_SHOWN = 20

EPILOG = (
    "Exit codes: 0 it worked (with --wait and --watch: the task is SUCCESSFUL) · 1 the task, or what was checked, failed · "
    "2 wrong usage, settings or document · 3 the server refused · 4 a server cannot be reached · 70 a fault of taskserver · "
    "130 or 143 interrupted by Ctrl-C or SIGTERM (a task that was waited for goes on) · 141 nobody reads the output any more."
)


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    FAULT = 70
    INTERRUPTED = 128 + signal.SIGINT
    CLOSED = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM


class Interrupted(TaskserverError):
    """A signal ended the command before its work was done."""

    def __init__(self, message: str, number: int = signal.SIGINT, *, target: str | None = None) -> None:
        super().__init__(message, target=target)
        self.exit = Exit(128 + number)


def exit_code_of(error: TaskserverError) -> Exit:
    """Return the exit code that tells a script what sort of error it was."""
    match error:
        case Interrupted():
            return error.exit
        case ServerRefused():
            return Exit.REFUSED
        case Unavailable():
            return Exit.UNREACHABLE
        case Invalid():
            return Exit.USAGE
        case _:
            return Exit.FAILED


def report(error: TaskserverError) -> None:
    """Say on standard error what went wrong and what can be done."""
    lines = [f"error: {error.message}"]
    details = error.sub_errors if len(error.sub_errors) > 1 else ()
    lines += [f"  {one.field or '(whole)'}: {one.message}" for one in details[:MAX_SHOWN]]
    if len(details) > MAX_SHOWN:
        lines.append(f"  … and {len(details) - MAX_SHOWN} more")
    sys.stderr.write("\n".join(lines) + "\n")


def error_document(error: TaskserverError) -> Mapping[str, Any]:
    """Return the error as `--json` prints it: what the server answered, or the same for an error of our own."""
    code, name = error.code, type(error).__name__
    if isinstance(error, ServerRefused):
        code, name = error.error_code, error.error_type or name
    told = {
        "code": code,
        "type": name,
        "message": error.message,
        "target": error.target,
        "subErrors": [
            {"field": one.field, "message": one.message, "rejectedValue": one.rejected_value}
            for one in error.sub_errors
        ],
    }
    return {"error": {name: value for name, value in told.items() if value not in (None, [])}}
