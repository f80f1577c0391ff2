"""Kinds for the acceptance tests: they tell what really happened, wait to be let go, and die or hang in several ways.

Times are of the machine's monotonic clock, which all processes share. Marks are files in a directory that the test gives.
"""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

from workers import Context, subtask

_PAUSE_SECONDS = 0.01
_POISON = {"exit": lambda: os._exit(3), "segfault": lambda: ctypes.string_at(0)}


def _note(directory: str, line: str) -> None:
    """Append in one write, so that lines of several processes do not mix."""
    file = os.open(Path(directory) / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


@subtask("probe.span")
def span(ctx: Context, seconds: float = 0, ledger: str | None = None) -> list[float]:
    """Take so long; return when it began and ended, and note each run in the ledger."""
    began = time.monotonic()
    if ledger is not None:
        _note(ledger, f"{ctx.task.id} {ctx.subtask.key}")
    if seconds:
        threading.Event().wait(seconds)
    return [began, time.monotonic()]


@subtask("probe.gate")
def gate(ctx: Context, directory: str) -> int:
    """Note the process, and wait until the file `open` is there."""
    _note(directory, f"{ctx.subtask.key} {ctx.attempt} {os.getpid()}")
    while not (Path(directory) / "open").exists():
        ctx.wait(_PAUSE_SECONDS)
    return ctx.attempt


@subtask("probe.die")
def die(ctx: Context, how: str, directory: str) -> None:
    """End the process that runs it, every time."""
    _note(directory, f"{ctx.subtask.key} {ctx.attempt} {os.getpid()}")
    _POISON[how]()


@subtask("probe.die_once", on_worker_lost="fail")
def die_once(ctx: Context, directory: str) -> None:
    """End the process; what it does must not be begun twice."""
    _note(directory, f"{ctx.subtask.key} {ctx.attempt} {os.getpid()}")
    os.kill(os.getpid(), signal.SIGKILL)


@subtask("probe.hang", timeout=0.5)
def hang(ctx: Context, how: str, attempts: int = 1, seconds: float = 30) -> str:
    """Pass the timeout in the first attempts; `asleep` can be interrupted, `deaf` and `frozen` cannot."""
    if ctx.attempt > attempts:
        return how
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            _hold(how, end - time.monotonic())
        except BaseException:
            if how != "deaf":
                raise
    return how


def _hold(how: str, seconds: float) -> None:
    if how == "frozen":
        library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(128)  # PyDLL keeps hold of the interpreter
        library.pthread_mutex_init(mutex, None)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)  # for ever, and no signal ends it
    else:
        threading.Event().wait(seconds)


@subtask("probe.say")
def say(ctx: Context, failures: int = 0) -> None:
    """Log a line by each way there is, and fail the first attempts."""
    print(f"printed in attempt {ctx.attempt}")
    ctx.log.info("logged in attempt %s", ctx.attempt)
    if ctx.attempt <= failures:
        raise ValueError(f"attempt {ctx.attempt} is to fail")
