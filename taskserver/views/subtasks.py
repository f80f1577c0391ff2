"""Subtasks as they are answered: the row of a list, the node of a task's detail, and the full view of one."""

from typing import Any

from pydantic import Field

from schema.states import Operation, SubtaskState
from taskserver.views.view import HexId, Id, Moment, View


class BasicSubtask(View):
    """A subtask in a list of tasks."""

    id: Id
    name: str
    description: str
    status: SubtaskState
    operation: Operation


class KeyedSubtask(BasicSubtask):
    """A subtask found by its key."""

    key: str
    kind: str | None = Field(None, description="What sort of work it is; absent where it waits for a signal.")


class KeyedSubtasks(View):
    """The subtasks of a key: one or none."""

    contents: list[KeyedSubtask]


class WaitReason(View):
    """Why a subtask has not begun."""

    type: str = Field(
        description="One of upstream, paused, task_failing, retry, start_at, limit, rate, signal, duplicate, no_worker, queued."
    )
    detail: str = Field(description="The same in words.")
    upstreams: list[Id] | None = Field(None, description="The subtasks it waits for.")
    until: Moment | None = Field(None, description="When it may begin at the earliest.")
    holder: Id | None = Field(None, description="The task that it waits for.")


class Failure(View):
    """Why an attempt failed."""

    type: str
    message: str
    log_line: int | None = Field(None, description="The line of the attempt's log to look at first.")


class Subtask(BasicSubtask):
    """A subtask in a task's detail."""

    series_id: int = Field(description="Its place in the topological order, from 0.")
    key: str
    kind: str | None = Field(None, description="What sort of work it is; absent where it waits for a signal.")
    celery_id: HexId = Field(description="Its id in Celery and Flower.")
    timeout: int = Field(description="Seconds, of each attempt; a fraction counts as a whole one. 0 is no limit.")
    executor: str | None = None
    run_time: int = Field(description="The number of the attempt, from 1, also before the first.")
    attempt: int = Field(description="How many attempts have begun.")
    max_attempts: int
    node_type: str
    parallel_idx: int = Field(description="The index of its foreach element; -1 where there is no foreach.")
    upstreams: list[Id]
    downstreams: list[Id]
    prohibit_rollback: bool
    create_time: Moment | None = None
    start_time: Moment | None = Field(None, description="When it first began.")
    finish_time: Moment | None = Field(None, description="Absent while it moves.")
    wait_reason: WaitReason | None = None
    error: Failure | None = None
    result: Any = Field(
        None, description="What the handler returned; left out of a task's detail where it is very large."
    )


class Attempt(View):
    """One attempt of a subtask."""

    attempt: int
    operation: Operation
    status: str = Field(description="RUNNING or CANCELING while it lasts; then SUCCESSFUL, FAILED, CANCELED or LOST.")
    executor: str | None = None
    start_time: Moment
    finish_time: Moment | None = None
    error: Failure | None = None
    result: Any = Field(
        None,
        description="Of a cancelled attempt what its handler returned all the same; of a callback that was refused the answer.",
    )


class SubtaskDetail(Subtask):
    """A subtask with its arguments and all its attempts."""

    flower_url: str | None = Field(
        None, description="Where Flower shows it; absent before its first attempt, and where no Flower is known."
    )
    arguments: Any = Field(None, description="As submitted, with references.")
    attempts: list[Attempt] = Field(description="In order; the last is the running one, if one runs.")


class LogText(View):
    """A part of a subtask's log."""

    log: str = Field(description="Attempts are separated by ############{OPERATION}{time}############.")
    cursor: str = Field(description="Give it as `after` to read on from here.")
    more: bool | None = Field(None, description="True where the text was cut at the size of one answer: read on.")
