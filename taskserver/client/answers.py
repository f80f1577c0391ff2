"""What the client returns: the members that programs read most, typed, and beside them the document as it came.

A newer server may answer more members than these; they are in `document`, never an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from schema.states import SETTLED_TASK_STATES, SubtaskState, TaskState

Document = Mapping[str, Any]


class _Answer(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        defer_build=True,  # a command builds only those that it reads
    )

    document: Document = Field(default_factory=dict, exclude=True, repr=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        """Read a document of the server."""
        return cls.model_validate({**document, "document": document})


class TaskProgress(_Answer):
    """What every answer about a task tells: its state and its counts."""

    id: int
    task_id: str
    state: TaskState
    progress: Mapping[SubtaskState, int]
    change_number: int

    @property
    def is_settled(self) -> bool:
        """Whether only a verb can make the task go on."""
        return self.state in SETTLED_TASK_STATES

    @property
    def is_successful(self) -> bool:
        """Whether every subtask ended well."""
        return self.state is TaskState.SUCCESSFUL

    @property
    def total(self) -> int:
        """How many subtasks there are."""
        return sum(self.progress.values())

    def count(self, state: SubtaskState) -> int:
        """Return how many subtasks are in a state."""
        return self.progress.get(state, 0)


class TaskStatus(TaskProgress):
    """What polling answers."""


class Failure(_Answer):
    """Why something failed."""

    type: str | None = None
    message: str | None = None
    subtask: str | None = None

    @property
    def in_words(self) -> str:
        """What is wrong, for people; a message of one word comes after the type."""
        error_type, message = self.type or "", self.message or ""
        if len(message.split()) > 1 or message.startswith(error_type):
            return message
        return f"{error_type}: {message}" if message else error_type


class WaitReason(_Answer):
    """Why a subtask has not begun."""

    type: str
    detail: str = ""
    upstreams: Sequence[int] = ()
    until: str | None = None
    holder: int | None = None


class Subtask(_Answer):
    """A subtask of a task's detail."""

    id: int
    key: str
    kind: str | None = None
    status: SubtaskState
    attempt: int = 0
    max_attempts: int = 1
    parallel_idx: int = -1
    error: Failure | None = None
    wait_reason: WaitReason | None = None
    result: Any = None


class Attempt(_Answer):
    """One attempt of a subtask."""

    attempt: int
    operation: str
    status: str
    start_time: str | None = None
    finish_time: str | None = None
    error: Failure | None = None


class SubtaskDetail(Subtask):
    """A subtask in full; `flower_url` is there once it has begun, where the server knows a Flower."""

    flower_url: str | None = None
    arguments: Any = None
    attempts: Sequence[Attempt] = ()


class TaskSummary(TaskProgress):
    """A task in a list."""

    name: str
    create_time: str | None = None
    finish_time: str | None = None
    error: Failure | None = None


class TaskDetail(TaskSummary):
    """A task with its subtasks in topological order; what a verb returned has the first 1,000 at most."""

    arguments: Any = None
    subtasks: Sequence[Subtask] = ()

    def subtask(self, key: str) -> Subtask | None:
        """Return the subtask of that key, if there is one."""
        return next((one for one in self.subtasks if one.key == key), None)


class PageNumbers(_Answer):
    """Where in a list the answer is."""

    total_elements: int
    total_pages: int
    number: int
    size: int


class Page(_Answer):
    """One page of tasks, to be iterated over."""

    contents: Sequence[TaskSummary]
    page: PageNumbers

    def __iter__(self) -> Iterator[TaskSummary]:  # type: ignore[override]  # pydantic's own tells fields
        return iter(self.contents)

    def __len__(self) -> int:
        return len(self.contents)


class TaskStatuses(_Answer):
    """The status of several tasks, and the ids of those that are not there."""

    contents: Sequence[TaskStatus]
    missing: Sequence[int] = ()


class Refusal(_Answer):
    """Why the server refused one of several."""

    code: int = 0
    type: str | None = None
    message: str | None = None


class RetryAnswer(_Answer):
    """What became of one task of a bulk retry."""

    id: int
    successful: bool
    error: Refusal | None = None


class OperationRecord(_Answer):
    """A verb that somebody used on a task."""

    verb: str
    principal: str
    from_: str = Field(alias="from")
    to: str
    reason: str | None = None
    time: str | None = None
    subtask_id: int | None = None


class Plan(_Answer):
    """How a task's graph becomes Celery chains and chords."""

    fragments: Sequence[Document]
    mermaid: str


class Finding(_Answer):
    """One cause why a task does not move, and what to do about it."""

    type: str
    severity: str
    message: str
    cure: str
    subtasks: Sequence[int] = ()
    subtask_count: int | None = None


class Diagnosis(_Answer):
    """Why a task does not move; no findings where it moves, or waits for its turn."""

    id: int
    state: TaskState
    summary: str
    findings: Sequence[Finding]


class LogPart(_Answer):
    """A part of a subtask's log; `cursor` goes on from its end."""

    log: str
    cursor: str
    more: bool = False


class Principal(_Answer):
    """Who may use the API; the token is there only when it has just been made."""

    name: str
    role: str
    account: str
    token: str | None = None


class Kind(_Answer):
    """A kind of work that workers have registered."""

    name: str
    description: str = ""
    queue: str | None = None
    timeout: float | None = None
    max_attempts: int = 1
    has_rollback: bool = False


class Worker(_Answer):
    """A worker and what it is doing."""

    name: str
    host: str | None = None
    pid: int | None = None
    queues: Sequence[str] = ()
    concurrency: int = 0
    alive: bool = False
    claims: int = 0
    kinds: Sequence[str] | None = None


class Definition(_Answer):
    """A version of a definition; its subtasks and the rest are in `document`."""

    name: str
    version: int
    id: int | None = None
    description: str | None = None
    create_time: str | None = None
