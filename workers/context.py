"""What a handler is given: who it works for, its log, and the request to stop.

Handlers only read it. Nothing in it is worth anything after the attempt has ended.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from schema.identity import SubtaskId
from schema.inputs import TaskInfo
from schema.states import Operation
from workers.failures import Cancelled, TimedOut

_NO_SUBTASK = SubtaskId(0)


class Cancellation(Protocol):
    """What of `threading.Event` the context needs; set by the runner when the attempt is to stop."""

    def is_set(self) -> bool:
        """Tell whether the attempt is to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the attempt is to stop; False when the time was up first."""


@dataclass(frozen=True, slots=True)
class SubtaskInfo:
    """The subtask that runs."""

    id: SubtaskId = _NO_SUBTASK
    hex_id: str = "0" * 31 + "1"
    key: str = ""
    kind: str = ""
    parallel_idx: int = -1
    max_attempts: int = 1
    timeout: float | None = None


_NEVER = threading.Event()
_TASK = TaskInfo()
_SUBTASK = SubtaskInfo()


class Context:
    """One attempt, seen from its handler. Every part has a default, so that a handler can be called in a unit test."""

    __slots__ = (
        "_cancellation",
        "_deadline",
        "_log",
        "_make_log",
        "attempt",
        "idempotency_key",
        "operation",
        "subtask",
        "task",
    )

    def __init__(
        self,
        task: TaskInfo = _TASK,
        subtask: SubtaskInfo = _SUBTASK,
        *,
        attempt: int = 1,
        operation: Operation = Operation.EXECUTE,
        idempotency_key: str = "",
        make_log: Callable[[str], logging.Logger] = logging.getLogger,
        cancellation: Cancellation = _NEVER,
        deadline: float | None = None,
    ) -> None:
        """Make the context of one attempt.

        Args:
            task: The task, one value for all its subtasks.
            subtask: The subtask.
            attempt: 1 on the first run; goes on after an operator's retry.
            operation: EXECUTE, RETRY or ROLLBACK.
            idempotency_key: The same over automatic attempts, another one after an operator's retry.
            make_log: Makes the logger, given its name, when the handler first asks for it.
            cancellation: Set when the attempt is to stop.
            deadline: When the attempt times out, on the monotonic clock.

        """
        self.task = task
        self.subtask = subtask
        self.attempt = attempt
        self.operation = operation
        self.idempotency_key = idempotency_key
        self._make_log = make_log
        self._log: logging.Logger | None = None
        self._cancellation = cancellation
        self._deadline = deadline

    @property
    def log(self) -> logging.Logger:
        """The logger of this attempt, from INFO on; `structlog.wrap_logger(ctx.log)` works too."""
        if self._log is None:
            self._log = self._make_log(self.subtask.kind or __name__)
        return self._log

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that came with the submission."""
        return self.task.traceparent

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was asked to stop."""
        return self._cancellation.is_set()

    @property
    def remaining_seconds(self) -> float | None:
        """How long the attempt may still run, at least 0; None without a timeout."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    @property
    def deadline(self) -> datetime | None:
        """When the attempt times out; None without a timeout."""
        remaining = self.remaining_seconds
        return None if remaining is None else datetime.now(UTC) + timedelta(seconds=remaining)

    def raise_if_cancelled(self) -> None:
        """Stop here if the attempt is to stop.

        Raises:
            Cancelled: It was asked to.
            TimedOut: Its time is up.

        """
        if self._cancellation.is_set():
            raise Cancelled("the attempt was asked to stop")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise self._timed_out()

    def wait(self, seconds: float) -> None:
        """Sleep for so long, or until the attempt is to stop.

        Raises:
            Cancelled: It was asked to, before or while it slept.
            TimedOut: Its time is up, or was before the sleep ended.

        """
        self.raise_if_cancelled()
        remaining = self.remaining_seconds
        within = seconds if remaining is None else min(seconds, remaining)
        self._cancellation.wait(max(0.0, within))
        self.raise_if_cancelled()
        if within < seconds:
            raise self._timed_out()

    def _timed_out(self) -> TimedOut:
        timeout = self.subtask.timeout
        return TimedOut("the attempt took longer than its timeout" + ("" if timeout is None else f" of {timeout:g} s"))
