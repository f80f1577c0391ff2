"""Running a command to its end, whatever the end is: one place turns every error into a message and an exit code.

Typer's own ways to end are not used: it tells a closed pipe as exit code 1, which here means that the task failed, and
draws boxes around errors where a script reads them.
"""

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from schema.errors import InvalidArgument, TaskserverError
from taskserver.cli.exits import Exit, Interrupted, error_document, exit_code_of, report
from taskserver.cli.output import print_json


class OutputClosed(Exception):
    """Nobody reads standard output any more: `taskserver list | head -1`."""


class Commands(TyperGroup):
    """The commands, with endings that Typer would swallow made known to `run`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosed from error
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted") from error


def run(app: typer.Typer) -> int:
    """Run the command of the process's arguments; return its exit code."""
    try:
        code = _run_and_report(app)
        sys.stdout.flush()
    except (OutputClosed, BrokenPipeError):
        _forget_output()
        return Exit.CLOSED
    except SystemExit as end:  # rich's own answer to a closed pipe, and the end of shell completion
        if isinstance(end.__context__, BrokenPipeError):
            return Exit.CLOSED
        raise
    except OSError as error:  # a full disk below standard output, a directory that may not be written
        _forget_output()
        about = "" if error.filename is None else f": {error.filename}"
        report(TaskserverError(f"{error.strerror or error}{about}"))
        return Exit.FAILED
    return code


def _run_and_report(app: typer.Typer) -> int:
    try:
        return int(app(prog_name="taskserver", standalone_mode=False) or Exit.OK)
    except TaskserverError as error:
        return _told(error)
    except typer.TyperException as error:
        # Without a message it was a group without a command, whose help has just been printed.
        return _told(_misuse(error)) if error.format_message() else Exit.USAGE
    except (UnicodeError, RecursionError) as error:  # a byte in an argument, half a character or endless depth in JSON
        return _told(InvalidArgument(f"what was given cannot be written as JSON: {error}"))
    except (OutputClosed, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - the last place where it can be told apart from a task that failed
        traceback.print_exc()
        return _told(
            TaskserverError(f"a fault of taskserver itself, please report the lines above: {error}"), Exit.FAULT
        )


def _told(error: TaskserverError, code: Exit | None = None) -> int:
    report(error)
    if "--json" in sys.argv:
        print_json(error_document(error))
    return exit_code_of(error) if code is None else code


def _misuse(error: typer.TyperException) -> InvalidArgument:
    """Return what was wrong with the words of the command line, in our own form."""
    context: typer.Context | None = getattr(error, "ctx", None)
    cure = "" if context is None else f": `{context.command_path} --help` tells how it is used"
    return InvalidArgument(error.format_message().rstrip(".") + cure)


def _forget_output() -> None:
    """Let the interpreter's own last flush go nowhere, or it would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
