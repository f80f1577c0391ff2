"""Kinds for the acceptance tests: they tell what really happened, wait to be let go, and die or hang in several ways.

Times are of the machine's monotonic clock, which all processes share. Marks are files in a directory that the test gives.
"""

import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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


@subtask("probe.same")
def same(value: object) -> object:
    """Return what is given."""
    return value


@subtask("probe.environment")
def environment() -> dict[str, list[str]]:
    """Return which settings of the product are in the environment, as it is and as the process was started with."""
    started = Path("/proc/self/environ").read_bytes().split(b"\0")
    names = {"now": list(os.environ), "atStart": [one.decode().partition("=")[0] for one in started]}
    return {when: sorted(name for name in some if name.startswith("TASKSERVER_")) for when, some in names.items()}


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


@subtask("probe.tell")
def tell(ctx: Context, directory: str) -> None:
    """Print the name of each file there as it comes, until one is named `end`."""
    told: set[str] = set()
    while "end" not in told:
        for name in sorted({file.name for file in Path(directory).iterdir()} - told):
            print(name)
            told.add(name)
        ctx.wait(_PAUSE_SECONDS)


@subtask("probe.stop")
def stop(ctx: Context, how: str, directory: str, seconds: float = 60) -> str:
    """Note the process, and take so long; `asks` stops when it is asked to, `returns` returns then, the others go on."""
    _note(directory, f"{ctx.subtask.key} {ctx.attempt} {os.getpid()}")
    print(f"{ctx.subtask.key} is at work")
    _WORK[how](ctx, seconds)
    return how


def _returns(ctx: Context, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ctx.cancelled and time.monotonic() < end:
        threading.Event().wait(_PAUSE_SECONDS)


def _spawns(_: Context, seconds: float) -> None:
    program = subprocess.Popen(["sleep", str(seconds)])
    print(f"started {program.pid}", flush=True)
    program.wait()


def _cleans(ctx: Context, seconds: float) -> None:
    try:
        time.sleep(seconds)
    except Exception:  # noqa: BLE001 - the request to stop is none
        print("swallowed")
    finally:
        print(f"{ctx.subtask.key} has cleaned up")


def _ignores(_: Context, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with suppress(BaseException):
            time.sleep(left)


_WORK: dict[str, Callable[[Context, float], object]] = {
    "asks": lambda ctx, seconds: ctx.wait(seconds),
    "returns": _returns,
    "ignores": _ignores,
    "sleeps": lambda _, seconds: time.sleep(seconds),
    "cleans": _cleans,
    "spawns": _spawns,
    "computes": lambda _, seconds: sum(range(int(seconds * 1e9))),  # in C, and does not let go of the interpreter
}


@subtask("probe.made")
def made(ctx: Context, directory: str, given: object = None, fails: bool = False, seconds: float = 0) -> str:
    """Make what the rollback unmakes; fail at the end if told so."""
    _note(directory, f"make {ctx.subtask.key} {ctx.operation} {ctx.attempt}")
    ctx.wait(seconds)
    if fails and not (Path(directory) / "repaired").exists():
        raise ValueError(f"{ctx.subtask.key} is to fail")
    return f"made {ctx.subtask.key}"


@made.rollback
def unmake(ctx: Context, directory: str, given: object = None, seconds: float = 0) -> None:
    """Note what is undone, with what it was given; fail if the file `stuck-KEY` is there, wait while `slow-KEY` is."""
    began = time.monotonic()
    print(f"unmaking {ctx.subtask.key}")
    ctx.wait(seconds)
    if (slow := Path(directory) / f"slow-{ctx.subtask.key}").exists():
        _note(directory, f"slow {ctx.subtask.key}")
    while slow.exists():
        ctx.wait(_PAUSE_SECONDS)
    if (Path(directory) / f"stuck-{ctx.subtask.key}").exists():
        raise ValueError(f"{ctx.subtask.key} cannot be undone")
    span = f"{began} {time.monotonic()}"
    _note(directory, f"unmake {ctx.subtask.key} {ctx.operation} {ctx.attempt} {span} {json.dumps(given)}")


@subtask("probe.moody", max_attempts=3, backoff=0.1, retry_on=OSError, do_not_retry_on=(PermissionError, TimeoutError))
def moody(ctx: Context, raises: str, directory: str, seconds: float = 0) -> str:
    """Raise the named exception each time, or take too long."""
    _note(directory, f"{ctx.subtask.key} {ctx.attempt} {ctx.idempotency_key}")
    ctx.wait(seconds)
    if raises:
        raise _ERRORS[raises]("as asked")
    return raises


@subtask("probe.final", timeout=0.5, max_attempts=3, backoff=0.1, do_not_retry_on=TimeoutError)
def final(ctx: Context, how: str) -> None:
    """Work past the timeout each time; a timeout is not worth another attempt."""
    _WORK[how](ctx, 60)


_ERRORS = {one.__name__: one for one in (OSError, PermissionError, ConnectionError, ValueError)}
