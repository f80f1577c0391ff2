"""One attempt as steps: resolve the arguments, call the handler under its timeout, judge how it ended.

Knows nothing of units and claims beyond the claim number of its log. Whatever a handler raises, also to end the process,
is an outcome.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from schema.identity import TaskId, subtask_hex
from schema.inputs import TaskInfo, load_results, load_task
from schema.pointers import BadReference
from schema.references import resolve
from schema.settings import Settings
from schema.states import Operation
from schema.transitions.claims import Claimed
from schema.transitions.records import Outcome
from workers.alarm import alarm
from workers.cancellation import SlotCancellation
from workers.capture import capturing, make_logger
from workers.context import Cancellation, Context, SubtaskInfo
from workers.failures import BadArgument, Cancelled, Interruption, error_message, error_type, failure_text
from workers.log_sink import LogSink, Watcher
from workers.outcome import Attempt, Raised, Returned, check_size, judge
from workers.registry import Handler, Registry
from workers.retry import Retryable
from workers.slots import NEVER, Slot

_KEPT_TASKS = 16
_KILL_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the subtasks of one claim read: their task, and the results of upstreams that they name."""

    task: TaskInfo = field(default_factory=TaskInfo)
    results: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt that has ended: what was claimed, how it ended, and the rest of its log."""

    claimed: Claimed
    outcome: Outcome
    sink: LogSink


class AttemptRunner:
    """Runs attempts in one pool process.

    Args:
        registry: The handlers.
        watcher: Who writes logs while they grow.
        settings: The limits.
        end_programs: Ends what a handler has started and, interrupted, leaves behind: its next attempt must not run beside it.

    """

    def __init__(
        self,
        registry: Registry,
        watcher: Watcher,
        settings: Settings,
        *,
        end_programs: Callable[[], None] = lambda: None,
    ) -> None:
        self._end_programs = end_programs
        self._registry = registry
        self._kinds = frozenset(one.name for one in registry.kinds())
        self._watcher = watcher
        self._settings = settings
        self._tasks: dict[TaskId, TaskInfo] = {}

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that have a handler here."""
        return self._kinds

    def load(self, connection: Connection, task: TaskId, batch: Sequence[Claimed]) -> Inputs:
        """Read what the claimed subtasks need."""
        keys = {key for one in batch for key in one.from_keys}
        return Inputs(self._load_task(connection, task), load_results(connection, task, keys) if keys else {})

    def run(self, claimed: Claimed, inputs: Inputs, *, clock: float, slot: Slot) -> Finished:
        """Run one attempt to its end.

        Args:
            claimed: What to run.
            inputs: What `load` read for its claim.
            clock: The monotonic time at which the claim was answered; its time by PostgreSQL is in the claim.
            slot: Where the main process looks.

        """
        began = time.monotonic()
        slot.begin(claimed.id, _kill_at(claimed.timeout))
        cancellation = SlotCancellation(slot, claimed.claim, claimed.id)
        if cancellation.is_set():
            slot.end()
            return self.forgo(claimed, inputs)
        sink = self._sink(claimed, inputs)
        ending, retryable = self._ending(claimed, inputs, sink, began, cancellation)
        slot.end()
        finished = time.monotonic()
        attempt = Attempt(
            claimed.id,
            started_at=claimed.claimed_at + timedelta(seconds=began - clock),
            finished_at=claimed.claimed_at + timedelta(seconds=finished - clock),
            failures=claimed.failures,
            max_attempts=claimed.max_attempts,
            backoff_seconds=claimed.backoff_seconds,
            retryable=retryable,
        )
        return Finished(claimed, judge(attempt, ending, random=random.random), sink)

    def forgo(self, claimed: Claimed, inputs: Inputs) -> Finished:
        """End an attempt that was asked to stop before it began: no handler is called."""
        sink = self._sink(claimed, inputs)
        error = Cancelled("the attempt was asked to stop before it began")
        sink.report(failure_text(error))
        sink.close()
        outcome = Outcome(
            claimed.id,
            "FAILED",
            started_at=claimed.claimed_at,
            finished_at=claimed.claimed_at,
            error_type=error_type(error),
            error_message=error_message(error),
            error_line=sink.reported_line,
            begun=False,
        )
        return Finished(claimed, outcome, sink)

    def _sink(self, claimed: Claimed, inputs: Inputs) -> LogSink:
        limit = self._settings.max_log_bytes
        return LogSink(inputs.task.id, claimed.id, claimed.claim, limit_bytes=limit, watcher=self._watcher)

    def _ending(
        self, claimed: Claimed, inputs: Inputs, sink: LogSink, began: float, cancellation: Cancellation
    ) -> tuple[Returned | Raised, Retryable]:
        retryable = Retryable()
        try:
            handler = self._registry.find(claimed.kind)
            retryable = handler.retryable
            with capturing(sink), alarm(claimed.timeout, cancellation.is_set):
                returned = _call(handler, claimed, inputs, _context(claimed, inputs.task, sink, began, cancellation))
            check_size(returned, limit_bytes=self._settings.max_value_bytes)
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything, and all of it is its outcome
            if isinstance(error, Interruption):
                self._end_programs()
            sink.report(failure_text(error))
            sink.close()
            return Raised(error, log_line=sink.reported_line), retryable
        sink.close()
        return returned, retryable

    def _load_task(self, connection: Connection, task: TaskId) -> TaskInfo:
        info = self._tasks.get(task)
        if info is None:
            if len(self._tasks) >= _KEPT_TASKS:
                self._tasks.clear()
            info = self._tasks[task] = load_task(connection, task)
        return info


def _call(handler: Handler[Any, Any], claimed: Claimed, inputs: Inputs, context: Context) -> Returned:
    binding = handler.binding_for(context.operation)
    if binding is None:
        return Returned()
    return binding.run(context, handler.arguments_for(context.operation, _resolved(claimed, inputs)))


def _resolved(claimed: Claimed, inputs: Inputs) -> Mapping[str, Any]:
    if not claimed.arguments:
        return {}
    try:
        resolved = resolve(claimed.arguments, arguments=inputs.task.arguments, results=inputs.results)
    except BadReference as error:
        raise BadArgument(error.message) from None
    assert isinstance(resolved, dict)
    return resolved


def _context(claimed: Claimed, task: TaskInfo, sink: LogSink, began: float, cancellation: Cancellation) -> Context:
    hex_id = subtask_hex(task.hex_id, claimed.series_id)
    return Context(
        task,
        SubtaskInfo(
            id=claimed.id,
            hex_id=hex_id,
            key=claimed.key,
            kind=claimed.kind,
            parallel_idx=claimed.parallel_idx,
            max_attempts=claimed.max_attempts,
            timeout=claimed.timeout,
        ),
        attempt=claimed.attempt,
        operation=Operation(claimed.operation),
        idempotency_key=f"{hex_id}-{claimed.generation}",
        make_log=lambda name: make_logger(sink, name),
        cancellation=cancellation,
        deadline=None if claimed.timeout is None else began + claimed.timeout,
    )


def _kill_at(timeout: float | None) -> int:
    if timeout is None:
        return NEVER
    return time.monotonic_ns() + int((timeout + _KILL_GRACE_SECONDS) * 1e9)
