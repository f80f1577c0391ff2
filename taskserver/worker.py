"""`taskserver worker`: a Celery worker that is started again when it ends by itself.

A Celery worker that holds an unacknowledged message ends when Redis is killed. The worker inherits our standard streams and
leads its own session, so a Ctrl-C reaches it once, through us, as the request for a warm shutdown.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

import structlog

from schema.refusal import REFUSED
from schema.settings import Settings
from taskserver.supervision.identity import kill_group
from taskserver.supervision.part import Backoff

_BACKOFF = Backoff(first_seconds=0.5)

_log = structlog.get_logger("taskserver.worker")


def worker_command(*, name: str, concurrency: int, queues: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the command of a worker; its name must be its own on the broker. Handlers are found where it is started."""
    command = (
        *(sys.executable, "-P", "-m", "taskserver.celery_program", "-A", "workers.app", "worker"),
        *("--hostname", f"{name}@%h", "--concurrency", str(concurrency), "--loglevel", "INFO"),
        *("--without-gossip", "--without-mingle"),
    )
    return (*command, "--queues", ",".join(queues)) if queues else command


def worker_environment(settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    """Return the given environment without what only servers may know; the key of callbacks is all that is left of it."""
    unneeded = {f"TASKSERVER_{name}" for name in ("SECRET_KEY", "ADMIN_TOKEN", "FLOWER_AUTH")}
    kept = {name: value for name, value in given.items() if name.upper() not in unneeded}
    if settings.secret_key is None and settings.callback_key is None:
        return kept
    return {**kept, "TASKSERVER_CALLBACK_KEY": settings.require_callback_key()}


class WorkerKeeper:
    """Keeps one worker process alive until a signal asks for its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, backoff: Backoff = _BACKOFF) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self._backoff = backoff
        self._child: subprocess.Popen[bytes] | None = None
        self._stops = 0  # how often the end was asked for

    def run(self) -> bool:
        """Keep the worker alive until SIGTERM or SIGINT: the first lets it finish what it began, the second does not.

        Returns:
            False when it refused its first start: it has said what is wrong, and starting it again would not help.

        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        deaths = 0
        while not self._stops:
            began = time.monotonic()
            code = self._run_once()
            if self._stops:
                return True
            if code == REFUSED and not deaths:
                return False
            lived = time.monotonic() - began
            deaths = 1 if lived >= self._backoff.forget_after_seconds else deaths + 1
            delay = self._backoff.delay(deaths)
            _log.warning(
                "worker ended, it will be started again",
                action="worker_ended",
                exit_code=code,
                again_in_seconds=round(delay, 2),
            )
            self._pause(delay)
        return True

    def _run_once(self) -> int:
        self._child = subprocess.Popen(  # noqa: S603 (our own words)
            self._command, env=self._environment, start_new_session=True
        )
        if self._stops:  # asked just before there was a child to tell
            self._child.send_signal(signal.SIGTERM)
        code = self._child.wait()
        kill_group(self._child.pid)  # what a killed worker leaves must not work beside its successor
        self._child = None
        return code

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stops and time.monotonic() < deadline:
            time.sleep(0.05)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM if self._stops == 1 else signal.SIGQUIT)
