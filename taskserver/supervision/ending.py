"""How a process is ended: asked first, then killed together with its group."""

import signal
import subprocess
import time
from threading import Event

import structlog

from taskserver.supervision.identity import ProcessIdentity, kill_group

ORPHAN_GRACE_SECONDS = 3.0  # what a killed run left behind gets less time than a part that is stopped in order
KILL_SECONDS = 10.0  # a killed process that hangs in the kernel longer than this is left to it

_log = structlog.get_logger(__name__)


def end_process(
    identity: ProcessIdentity,
    child: "subprocess.Popen[bytes] | None" = None,
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    grace_seconds: float = ORPHAN_GRACE_SECONDS,
    hurry: Event | None = None,
) -> None:
    """Ask a process to end, wait for the grace or until `hurry`, then kill it; the rest of its group is killed anyway.

    `child` is given when the process is our own, which reaps it.
    """
    identity.signal(stop_signal)
    if not _wait_for_end(identity, child, grace_seconds, hurry or Event()):
        _log.warning("process killed, it did not end when asked", action="process_killed", pid=identity.pid)
        identity.signal(signal.SIGKILL)
        _wait_for_end(identity, child, KILL_SECONDS, Event())
    kill_group(identity.pid)


def _wait_for_end(
    identity: ProcessIdentity, child: "subprocess.Popen[bytes] | None", seconds: float, hurry: Event
) -> bool:
    deadline = time.monotonic() + seconds
    while child.poll() is None if child else identity.is_alive():
        if time.monotonic() >= deadline or hurry.wait(0.01):
            return False
    return True
