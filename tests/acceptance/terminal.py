"""Commands on a terminal: a pseudo-terminal of a known size, as standard input, output and error."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.conftest import COMMAND_SECONDS, environment

ROWS, COLUMNS = 40, 120


@dataclass(frozen=True)
class Shown:
    """How a command ended, and all that the terminal was sent."""

    returncode: int
    text: str


def run_on_terminal(*arguments: str, cwd: Path, **env: str) -> Shown:
    """Run a command to its end on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "taskserver", *arguments],
        cwd=cwd,
        env=environment(TERM="xterm-256color", **env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    too_late = threading.Timer(COMMAND_SECONDS, process.terminate)
    too_late.start()
    try:
        text = _everything(ours)
        return Shown(process.wait(), text)
    finally:
        too_late.cancel()
        os.close(ours)


def _everything(terminal: int) -> str:
    parts = []
    try:
        while part := os.read(terminal, 65536):
            parts.append(part)
    except OSError:  # how Linux tells that nobody is left at the other end
        pass
    return b"".join(parts).decode()
