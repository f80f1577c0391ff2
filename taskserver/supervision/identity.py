"""Which process a number means, also after the number was used again.

A pid alone names nobody: the kernel hands it out again. Here a process is its pid together with the moment it started, and
a pid file holds both, so that no stranger is ever taken for ours and signalled. A zombie counts as dead: where nobody
reaps orphans (a container without an init) it would otherwise seem to live for ever.
"""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A pid and the moment its process started, in whatever form the platform gives it."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Say who has this pid now; None when nobody, or only a zombie, has it."""
        started = _started_on_linux(pid) if sys.platform == "linux" else _started_by_ps(pid)
        return None if started is None else cls(pid, started)

    def is_alive(self) -> bool:
        """Tell whether this very process still runs."""
        return self.of(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """Signal this very process; nothing happens when it is gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it ended in between
                os.kill(self.pid, number)


def kill_group(pid: int) -> None:
    """End what a part that led its own process group has left behind.

    To be called as the leader ends: a pid is not handed out again while a group of that number has members.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left; macOS says EPERM for zombies
        os.killpg(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class PidRecord:
    """What a pid file holds: the process, and a fingerprint of the command that started it."""

    identity: ProcessIdentity
    fingerprint: str

    def write(self, path: Path) -> None:
        """Replace the file at once: a reader sees the old record or the new one, never a part."""
        fresh = path.with_suffix(".new")
        fresh.write_text(f"{self.identity.pid}\n{self.identity.started}\n{self.fingerprint}\n")
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a pid file; None when there is none, or its process is gone."""
        try:
            pid, started, fingerprint = path.read_text().splitlines()
        except (FileNotFoundError, ValueError):  # a file cut short by a power failure names no process that lives now
            return None
        identity = ProcessIdentity(int(pid), started) if pid.isdecimal() else None
        return cls(identity, fingerprint) if identity is not None and identity.is_alive() else None


def command_of(pid: int) -> str:
    """Return the command line of a process; empty when there is none."""
    if sys.platform != "linux":
        return _ask_ps("args=", pid)
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _started_on_linux(pid: int) -> str | None:
    try:
        # The command name in parentheses may hold anything; the fields after its end are fixed (proc(5)).
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in {"Z", "X"} else f"{fields[18]}@{_boot()}"


@cache
def _boot() -> str:
    # Start times count from boot, so without this a process of the last boot could equal one of this boot.
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started_by_ps(pid: int) -> str | None:
    state, _, started = _ask_ps("state=,lstart=", pid).partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def _ask_ps(columns: str, pid: int) -> str:
    answer = subprocess.run(  # noqa: S603 (fixed command, numeric argument)
        ["/bin/ps", "-ww", "-o", columns, "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C", "TZ": "UTC"},
    )
    return answer.stdout.strip()
