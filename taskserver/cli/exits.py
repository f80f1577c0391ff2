"""How a command ends: the exit codes, and what an error says on standard error."""

import sys
from enum import IntEnum

from schema.errors import Invalid, TaskserverError, Unavailable
from taskserver.client import ServerRefused

MAX_SHOWN = 20

EPILOG = (
    "Exit codes: 0 it worked (with --wait and --watch: the task is SUCCESSFUL) · 1 the task, or what was checked, failed · "
    "2 wrong usage, settings or document · 3 the server refused · 4 a server cannot be reached."
)


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4


def exit_code_of(error: TaskserverError) -> Exit:
    """Return the exit code that tells a script what sort of error it was."""
    match error:
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
