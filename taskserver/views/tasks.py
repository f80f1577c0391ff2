"""Tasks as they are answered: the row of a list, the detail, the status, the plan and the audit."""

from typing import Any, Literal

from pydantic import Field

from schema.states import Operation, TaskState
from taskserver.projection import Status
from taskserver.views.subtasks import BasicSubtask, Subtask
from taskserver.views.view import HexId, Id, Moment, View


class Cluster(View):
    """The OCP cluster that a task is about."""

    id: Id | None = None
    name: str | None = None
    ob_cluster_id: Id | None = None
    type: str | None = None


class Tenant(View):
    """The tenant that a task is about."""

    id: Id | None = None
    name: str | None = None
    ob_tenant_id: Id | None = None
    mode: str | None = None


class Creator(View):
    """Who submitted a task."""

    id: Id = Field(description="The submitted userId, else the id of the principal, else 0.")
    name: str


class Progress(View):
    """How many subtasks are in each state."""

    PENDING: int = Field(alias="PENDING")
    READY: int = Field(alias="READY")
    RUNNING: int = Field(alias="RUNNING")
    CANCELING: int = Field(alias="CANCELING")
    FAILED: int = Field(alias="FAILED")
    SUCCESSFUL: int = Field(alias="SUCCESSFUL")


class TaskError(View):
    """Why a task failed."""

    type: str | None = None
    message: str | None = None
    subtask: str | None = Field(None, description="The key of the subtask that failed first.")


class _TaskHead(View):
    id: Id
    task_id: HexId = Field(description="The root id in Celery and Flower.")
    name: str
    cluster: Cluster | None = None
    tenant: Tenant | None = None
    creator: Creator
    host_id: Id | None = None
    status: Status
    state: TaskState
    type: Literal["MANUAL", "SYS_ONCE", "SCHEDULED", "SYS_SCHEDULED"]
    task_type: str = Field(description="The name of the definition, or `inline`.")
    instance_id: Id | None = None
    operation: Operation
    executor: str | None = None
    progress: Progress
    change_number: Id
    subtask_count: int
    rolled_back: bool
    abandoned: bool
    error: TaskError | None = None
    create_time: Moment | None = None
    start_time: Moment | None = None
    finish_time: Moment | None = None


class BasicTask(_TaskHead):
    """A task in a list: at most its first 1,000 subtasks, fewer where one answer would list more than 100,000."""

    subtasks: list[BasicSubtask] = Field(description="The first ones; subtaskCount tells how many there are.")


class Task(_TaskHead):
    """A task with its subtasks in topological order."""

    task_definition_id: Id = Field(description="-1 where there is none.")
    prohibit_rollback: bool = Field(description="Forbidden by the task, or by a subtask that has begun.")
    priority: int
    extra: str | None = None
    biz_id: str | None = None
    concurrency: int | None = None
    start_at: Moment | None = None
    arguments: Any = None
    trace_id: str | None = None
    subtasks: list[Subtask] = Field(
        description="All of them; in the answer of a verb the first 1,000, which name only each other."
        " subtaskCount tells how many there are."
    )


class TaskStatus(View):
    """What polling a task answers."""

    id: Id
    task_id: HexId
    status: Status
    state: TaskState
    operation: Operation
    progress: Progress
    change_number: Id = Field(description="Grows with each change; also the ETag.")


class TaskStatuses(View):
    """The statuses of several tasks."""

    contents: list[TaskStatus]
    missing: list[Id] = Field(description="Ids that are not there for the caller.")


class Page(View):
    """Where in a list the answer is."""

    total_elements: int
    total_pages: int
    number: int
    size: int


class TaskPage(View):
    """One page of a list of tasks."""

    contents: list[BasicTask]
    page: Page


class PlanFragment(View):
    """A part of the plan that is published as one Celery chain."""

    id: int
    after: list[int] = Field(description="The fragments it waits for.")
    canvas: dict[str, Any] = Field(
        description='{"chain": […]}, {"group": […]}, {"chord": {"header": […], "body": …}} or {"unit": [keys]}, nested.'
    )


class Plan(View):
    """How a task's graph becomes Celery chains and chords."""

    fragments: list[PlanFragment]
    mermaid: str = Field(description="A Mermaid flowchart of the same.")


class OperationRecord(View):
    """A verb that somebody used on a task."""

    verb: str
    principal: str
    from_: str = Field(alias="from")
    to: str
    reason: str | None = None
    time: Moment
    subtask_id: Id | None = None


class Operations(View):
    """The audit of a task, oldest first."""

    contents: list[OperationRecord]


class TaskFailure(View):
    """Why a task of a bulk call was left as it was."""

    code: int
    type: str
    message: str


class RetriedTask(View):
    """What became of one task of a bulk retry."""

    id: Id
    successful: bool = Field(description="It runs again.")
    error: TaskFailure | None = None


class RetriedTasks(View):
    """What became of each task of a bulk retry."""

    contents: list[RetriedTask]
