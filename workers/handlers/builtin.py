"""The built-in kinds: to try things out, to wait, to join, to test with."""

import sys
from typing import Annotated, Any

from pydantic import Field

from workers import Context, subtask

_LINES_BETWEEN_CHECKS = 1000
_YEAR_SECONDS = 366 * 24 * 3600


@subtask("builtin.noop")
def noop() -> None:
    """Do nothing."""


@subtask("builtin.echo")
def echo(**arguments: Any) -> Any:
    """Return the arguments."""
    return arguments


@subtask("builtin.sleep")
def sleep(ctx: Context, seconds: Annotated[float, Field(ge=0, le=_YEAR_SECONDS, allow_inf_nan=False)]) -> None:
    """Wait for so many seconds; stop at once when cancelled."""
    ctx.wait(seconds)


@subtask("builtin.fail")
def fail(ctx: Context, message: str = "asked to fail", times: Annotated[int, Field(ge=0)] | None = None) -> None:
    """Fail the first `times` attempts, or every one."""
    if times is None or ctx.attempt <= times:
        raise RuntimeError(message)


@subtask("builtin.log")
def log(ctx: Context, lines: Annotated[int, Field(ge=0, le=100_000_000)] | list[str]) -> int:
    """Write these lines, or so many, to the log; return how many."""
    count = lines if isinstance(lines, int) else len(lines)
    for index in range(count):
        if index % _LINES_BETWEEN_CHECKS == 0:
            ctx.raise_if_cancelled()
        sys.stdout.write(f"line {index + 1}\n" if isinstance(lines, int) else f"{lines[index]}\n")
    return count
