"""Why a subtask has not begun, from stored facts alone.

Pure. The first reason that holds is told, the deepest first: what its own upstreams hold back would not begin if the task
were resumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from schema.states import Operation, SubtaskState, TaskState
from taskserver.projection import wire_time
from taskserver.views.subtasks import WaitReason


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What of the task decides whether its subtasks may begin."""

    state: TaskState
    open: bool
    opens_at: datetime | None
    failing: bool
    full: bool
    concurrency: int | None
    duplicate_of: int | None
    live_queues: frozenset[str]


class Waiting(Protocol):
    """What of the subtask decides it."""

    @property
    def state(self) -> str:
        """The subtask's state."""

    @property
    def operation(self) -> str:
        """What it is made to do."""

    @property
    def gate(self) -> str | None:
        """What it waits for beside its upstreams."""

    @property
    def scheduled_at(self) -> str | None:
        """When its next attempt may begin, as ISO text."""

    @property
    def queue(self) -> str:
        """Where it is released to."""


_UNHELD_STATES = {TaskState.SUCCESSFUL, TaskState.REVOKED, TaskState.ROLLED_BACK}


def wait_reason(task: TaskFacts, subtask: Waiting, unfinished: Sequence[int]) -> WaitReason | None:
    """Return why the subtask has not begun; None where it has, or never will.

    Args:
        task: Its task.
        subtask: The row.
        unfinished: Ids of the upstreams it still waits for.

    """
    if task.state in _UNHELD_STATES or subtask.state not in {SubtaskState.PENDING, SubtaskState.READY}:
        return None
    if subtask.state == SubtaskState.READY:
        return _in_queue(task, subtask)
    if unfinished and subtask.operation != Operation.ROLLBACK:
        return WaitReason(
            type="upstream", detail=f"waits for {len(unfinished)} upstream(s) to end well", upstreams=list(unfinished)
        )
    if subtask.gate == "signal":
        return WaitReason(type="signal", detail="waits for its signal")
    return _held_by_task(task, subtask) or _held_by_itself(task, subtask) or _in_queue(task, subtask)


def _held_by_task(task: TaskFacts, subtask: Waiting) -> WaitReason | None:
    if task.state is TaskState.SUSPENDED:
        return WaitReason(type="paused", detail="the task is paused: resume it")
    if task.failing and subtask.operation == Operation.EXECUTE:
        return WaitReason(type="task_failing", detail="another subtask has failed: retry or skip that one")
    if task.duplicate_of is not None and not task.open:
        return WaitReason(
            type="duplicate",
            detail=f"task {task.duplicate_of} holds the same instance and has not settled",
            holder=task.duplicate_of,
        )
    if task.opens_at is not None and not task.open:
        return WaitReason(type="start_at", detail="the task starts later", until=wire_time(task.opens_at))
    return None


def _held_by_itself(task: TaskFacts, subtask: Waiting) -> WaitReason | None:
    if subtask.scheduled_at is not None:
        until = wire_time(datetime.fromisoformat(subtask.scheduled_at))
        return WaitReason(type="retry", detail="an attempt failed; the next begins later", until=until)
    if task.full:
        return WaitReason(
            type="limit", detail=f"{task.concurrency} subtask(s) of the task have begun, its concurrency allows no more"
        )
    return None


def _in_queue(task: TaskFacts, subtask: Waiting) -> WaitReason:
    if subtask.queue not in task.live_queues:
        return WaitReason(type="no_worker", detail=f"no live worker serves the queue {subtask.queue}: start one")
    return WaitReason(type="queued", detail=f"waits for a free worker in the queue {subtask.queue}")
