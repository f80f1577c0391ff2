"""Why a subtask has not begun, from stored facts alone.

Pure. The first reason that holds is told, the deepest first: what its own upstreams hold back would not begin if the task
were resumed. What stops or turns a whole task comes before all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from schema.states import FINAL_TASK_STATES, Operation, SubtaskState, TaskState
from schema.transitions.progress import Stop
from taskserver.projection import wire_time
from taskserver.views.subtasks import WaitReason


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What of the task decides whether its subtasks may begin.

    `live_kinds` has the queues that live workers serve, each with the kinds that they can run; None where one of them has
    not said.
    """

    state: TaskState
    open: bool
    opens_at: datetime | None
    failing: bool
    stopping: Stop | None
    undoing: bool
    full: bool
    concurrency: int | None
    queued: bool
    holder: int | None
    live_kinds: Mapping[str, frozenset[str] | None]


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
    def declined(self) -> bool:
        """Whether it is scheduled because the worker that it was brought to had no handler for it."""

    @property
    def queue(self) -> str:
        """Where it is released to."""

    @property
    def kind(self) -> str | None:
        """What a worker must have a handler for; None where it takes none."""


UNBEGUN_SUBTASK_STATES = frozenset({SubtaskState.PENDING, SubtaskState.READY})
_GATED_BY_SERVER = {"when": "its condition is decided", "foreach": "its elements are counted"}


def wait_reason(task: TaskFacts, subtask: Waiting, holders: Sequence[int]) -> WaitReason | None:
    """Return why the subtask has not begun; None where it has, never will, or has been undone.

    Args:
        task: Its task.
        subtask: The row.
        holders: Ids of the upstreams it still waits for; in a rollback of the downstreams to be undone before it.

    """
    if task.state in FINAL_TASK_STATES or subtask.state not in UNBEGUN_SUBTASK_STATES or subtask.gate == "undone":
        return None
    if subtask.state == SubtaskState.READY:
        return _in_queue(task, subtask)
    return (
        _held_by_course(task, subtask)
        or _held_by_neighbours(subtask, holders)
        or _held_by_task(task, subtask)
        or _held_by_itself(task, subtask)
        or _in_queue(task, subtask)
    )


def _held_by_course(task: TaskFacts, subtask: Waiting) -> WaitReason | None:
    if task.stopping is not None and task.state is not TaskState.FAILED:
        why = "is being cancelled" if task.stopping == "CANCEL" else "has passed its deadline"
        return WaitReason(type="task_failing", detail=f"the task {why}: nothing of it begins any more")
    if task.undoing and subtask.operation != Operation.ROLLBACK:
        return WaitReason(type="task_failing", detail="the task is being rolled back: what had not begun stays so")
    return None


def _held_by_neighbours(subtask: Waiting, holders: Sequence[int]) -> WaitReason | None:
    if subtask.gate == "downstreams":
        many = f"{len(holders)} downstream(s) that" if holders else "what follows it, which"
        detail = f"is rolled back after {many} must be undone first"
        return WaitReason(type="upstream", detail=detail, upstreams=list(holders))
    if holders and subtask.operation != Operation.ROLLBACK:
        detail = f"waits for {len(holders)} upstream(s) to end well"
        return WaitReason(type="upstream", detail=detail, upstreams=list(holders))
    if subtask.gate == "signal":
        return WaitReason(type="signal", detail="waits for its signal")
    return None


def _held_by_task(task: TaskFacts, subtask: Waiting) -> WaitReason | None:
    if task.state is TaskState.SUSPENDED:
        return WaitReason(type="paused", detail="the task is paused: resume it")
    if task.state is TaskState.FAILED or (task.failing and subtask.operation == Operation.EXECUTE):
        return WaitReason(type="task_failing", detail=_detail_of_failing(task))
    if task.queued:
        return WaitReason(type="duplicate", detail=_detail_of_queued(task.holder), holder=task.holder)
    if task.opens_at is not None and not task.open:
        return WaitReason(type="start_at", detail="the task starts later", until=wire_time(task.opens_at))
    return None


def _detail_of_failing(task: TaskFacts) -> str:
    if task.undoing:
        return "the rollback of another subtask has failed: roll the task back again, or skip that one"
    if task.stopping == "DEADLINE":
        return "the task has failed at its deadline: retry it, which grants the deadline anew"
    if task.failing:
        return "another subtask has failed: retry or skip that one"
    return "the task has failed: retry it"


def _detail_of_queued(holder: int | None) -> str:
    if holder is None:
        return "its instance has become free: it starts within seconds, unless another waited longer"
    return f"task {holder} holds the same instance and has not settled"


def _held_by_itself(task: TaskFacts, subtask: Waiting) -> WaitReason | None:
    if subtask.scheduled_at is not None:
        until = wire_time(datetime.fromisoformat(subtask.scheduled_at))
        if subtask.declined:
            return WaitReason(type="no_worker", detail=_detail_of_declined(task, subtask), until=until)
        return WaitReason(type="retry", detail="an attempt failed; the next begins later", until=until)
    if task.full:
        return WaitReason(
            type="limit", detail=f"{task.concurrency} subtask(s) of the task have begun, its concurrency allows no more"
        )
    return None


def _in_queue(task: TaskFacts, subtask: Waiting) -> WaitReason:
    if subtask.gate in _GATED_BY_SERVER:
        return WaitReason(type="queued", detail=f"waits until {_GATED_BY_SERVER[subtask.gate]} by the server")
    unserved = _detail_of_unserved(task, subtask)
    if unserved is not None:
        return WaitReason(type="no_worker", detail=unserved)
    return WaitReason(type="queued", detail=f"waits for a free worker in the queue {subtask.queue}")


def _detail_of_unserved(task: TaskFacts, subtask: Waiting) -> str | None:
    """Return what the queue lacks to run it; None where a live worker can."""
    if subtask.queue not in task.live_kinds:
        return f"no live worker serves the queue {subtask.queue}: start one"
    kinds = task.live_kinds[subtask.queue]
    if kinds is None or subtask.kind is None or subtask.kind in kinds:
        return None
    return (
        f"no live worker of the queue {subtask.queue} has a handler for the kind {subtask.kind}: name its module in"
        " TASKSERVER_HANDLERS of one and restart it, or start another"
    )


def _detail_of_declined(task: TaskFacts, subtask: Waiting) -> str:
    return _detail_of_unserved(task, subtask) or (
        f"a worker of the queue {subtask.queue} had no handler for the kind {subtask.kind}: it is offered again, and taken"
        " by one that has"
    )
