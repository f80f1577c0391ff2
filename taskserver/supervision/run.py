"""The life of one part: started, watched, started again when it dies, stopped.

Everything here runs in the supervisor's one thread, so nothing is locked; other threads only read `identity`, `is_ready`
and `deaths`. The pid file is written right after the start and removed right after the end: what it names is ours.
"""

import subprocess
import time
from pathlib import Path
from threading import Event

import structlog

from schema.errors import TaskserverError
from schema.refusal import REFUSED
from taskserver.supervision.ending import end_process
from taskserver.supervision.identity import PidRecord, ProcessIdentity, kill_group
from taskserver.supervision.part import Part

LOG_LIMIT_BYTES = 16 * 1024 * 1024  # a longer log is put aside when its part starts

_log = structlog.get_logger(__name__)


class PartRun:
    """One part and the process that is it just now, if any."""

    def __init__(self, part: Part, pid_file: Path) -> None:
        self.part = part
        self.identity: ProcessIdentity | None = None
        self.is_ready = False
        self.was_ready = False  # at any time
        self.has_refused = False  # to start, for a reason that stays
        self.deaths = 0  # in a row
        self.last_end = ""
        self._pid_file = pid_file
        self._child: subprocess.Popen[bytes] | None = None  # None for a process taken over: not ours to reap
        self._started_at = 0.0
        self._start_at = 0.0

    def tick(self) -> None:
        """Do what is due now: start, see whether it is ready, or notice the end."""
        if self.identity is None:
            if time.monotonic() >= self._start_at and not self.has_refused:
                self._start()
        elif not self._is_alive():
            self.has_refused = not self.was_ready and self._child is not None and self._child.returncode == REFUSED
            self._ended(f"ended with exit code {self._child.returncode}" if self._child else "ended")
        elif not self.is_ready and self.part.is_ready():
            self.is_ready = self.was_ready = True
            _log.info("part ready", action="part_ready", part=self.part.name, pid=self.identity.pid)

    def stop(self, hurry: Event) -> None:
        """End the process: ask, wait for the grace or until `hurry`, then kill the whole group."""
        if self.identity is not None:
            end_process(
                self.identity,
                self._child,
                stop_signal=self.part.stop_signal,
                grace_seconds=self.part.grace_seconds,
                hurry=hurry,
            )
            self._forget()

    def _start(self) -> None:
        try:
            if not self._take_over():
                self._spawn()
        except (OSError, TaskserverError) as error:
            self._ended(f"could not be started: {error}")

    def _take_over(self) -> bool:
        orphan = PidRecord.read(self._pid_file)
        if orphan is None:
            return False
        part = self.part
        if part.adoptable and orphan.fingerprint == part.fingerprint and part.is_ready():
            self.identity, self._started_at = orphan.identity, time.monotonic()
            self.is_ready = self.was_ready = True
            _log.info("part taken over", action="part_taken_over", part=part.name, pid=orphan.identity.pid)
            return True
        end_process(orphan.identity, stop_signal=part.stop_signal)
        return False

    def _spawn(self) -> None:
        self.part.prepare()
        _put_long_log_aside(self.part.log_file)
        with self.part.log_file.open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 (the command is the part's own)
                self.part.argv,
                env=self.part.env,
                cwd=self.part.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal must reach the supervisor only
            )
        self._child, self._started_at = child, time.monotonic()
        # A child that ended already has no start time to read; until it is reaped its pid means nobody else.
        self.identity = ProcessIdentity.of(child.pid) or ProcessIdentity(child.pid, "ended at once")
        PidRecord(self.identity, self.part.fingerprint).write(self._pid_file)

    def _is_alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self.identity is not None and self.identity.is_alive()

    def _ended(self, how: str) -> None:
        if self.identity is not None:
            kill_group(self.identity.pid)  # what a killed main process leaves must not work beside its successor
        if self._child is not None:
            self._child.wait()  # still to be reaped when its pid could not be noted
        backoff = self.part.backoff
        if self.is_ready and time.monotonic() - self._started_at >= backoff.forget_after_seconds:
            self.deaths = 0
        self.deaths += 1
        self.last_end = how
        delay = backoff.delay(self.deaths)
        if not self.has_refused:
            _log.warning(
                "part ended, it will be started again",
                action="part_ended",
                part=self.part.name,
                how=how,
                again_in_seconds=round(delay, 2),
            )
        self._forget()
        self._start_at = time.monotonic() + delay

    def _forget(self) -> None:
        if self.identity is not None:  # else the file, if any, is of an orphan that could not be ended
            self._pid_file.unlink(missing_ok=True)
        self.identity, self._child, self.is_ready = None, None, False


def _put_long_log_aside(log_file: Path) -> None:
    if log_file.exists() and log_file.stat().st_size > LOG_LIMIT_BYTES:
        log_file.replace(log_file.with_name(log_file.name + ".1"))
