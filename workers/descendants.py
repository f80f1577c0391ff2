"""Ending a process that overran together with the processes that its handler has started and waits for.

A handler that runs a program cannot be asked while it waits for it, and the program would work on after the handler's end,
beside the next attempt. Linux only: elsewhere the program is left alone. So is what has put itself under another parent.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path


def kill_with_descendants(pid: int) -> None:
    """Kill the process and all that it, or what it has started, has started."""
    with suppress(ProcessLookupError):  # it has ended in between
        os.kill(pid, signal.SIGSTOP)  # it must not start another one behind our back
        started = descendants(pid)
        os.kill(pid, signal.SIGKILL)
        for one in started:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def kill_descendants() -> None:
    """Kill all that this process, or what it has started, has started."""
    for one in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the pids of what the process has started, and what those have started; none where /proc does not tell."""
    children = [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in _numbers(file)]
    return [one for child in children for one in (child, *descendants(child))]


def _numbers(file: Path) -> list[int]:
    try:
        return [int(word) for word in file.read_text().split()]
    except OSError:  # the thread has ended
        return []
