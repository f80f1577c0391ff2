"""What a diagnosis is made from: stored facts of one task, and measurements of what it needs.

Frozen values without behaviour beyond what they imply. `queries.diagnosis` reads them, `measuring` adds the broker, the
rules judge them. Spans are seconds of PostgreSQL's clock; none is negative unless its field says so.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from schema.identity import TaskId
from schema.states import FINAL_TASK_STATES, SETTLED_TASK_STATES, SubtaskState, TaskState
from schema.transitions.progress import Progress


@dataclass(frozen=True, slots=True)
class Waits:
    """The settings that say how long healthy things may take."""

    dead_after_seconds: float
    lost_after_seconds: float
    cancel_grace_seconds: float


@dataclass(frozen=True, slots=True)
class Holder:
    """The task that has the instance for which this one waits."""

    id: int
    state: str
    name: str
    seconds: float  # since it was submitted


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused the task, as the audit has it."""

    principal: str
    seconds: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Course:
    """The task itself; `opens_in` is negative where its start has passed, `overdue_seconds` None before its deadline."""

    id: TaskId
    task_hex: str
    state: TaskState
    progress: Progress
    account: str
    priority: int
    seconds: float  # since it was submitted
    subtask_count: int | None
    error_type: str | None
    error_message: str | None
    opens_at: datetime | None
    opens_in: float | None
    overdue_seconds: float | None
    queued: bool
    queued_before: int
    holder: Holder | None
    pause: Pause | None

    @property
    def is_final(self) -> bool:
        """Tell whether nothing can make it go on."""
        return self.state in FINAL_TASK_STATES

    @property
    def is_settled(self) -> bool:
        """Tell whether only a verb can make it go on."""
        return self.state in SETTLED_TASK_STATES

    @property
    def is_inserted(self) -> bool:
        """Tell whether it is a row that was inserted by SQL and waits in its line to be started."""
        return self.subtask_count is None and self.state is TaskState.CREATED

    @property
    def stands_still(self) -> bool:
        """Tell whether nothing of it runs, is released, or could be released."""
        return self.progress.begun + self.progress.ready + self.progress.startable == 0


@dataclass(frozen=True, slots=True)
class Group:
    """Subtasks of one queue and kind that are READY, or PENDING and could be released; `some` are their first ids.

    `watched` are ids by which it can be told, with the time of the last release of each, whether anybody moves them: of what
    could be released the first, which go first, and of the unclaimed all.
    """

    state: SubtaskState
    queue: str
    kind: str
    count: int
    some: Sequence[int]
    watched: Sequence[int] = ()
    released: Sequence[datetime | None] = ()
    unclaimed: bool = False  # READY, released longer ago than a message needs, and with no live worker
    oldest_seconds: float = 0.0  # since the release of the oldest of the unclaimed
    declined: bool = False  # PENDING because a worker without a handler has left it; offered again within seconds

    @property
    def lane(self) -> str | None:
        """Name what brings them on one after the other: their queue, or, None, the task's dispatcher."""
        return self.queue if self.state is SubtaskState.READY else None


def still_lying(groups: Sequence[Group], standing: Collection[int]) -> list[Group]:
    """Return those groups in whose lane nothing has moved, when of all that is watched these still lie as they did."""
    moving = {one.lane for one in groups if not set(one.watched) <= set(standing)}
    return [one for one in groups if one.lane not in moving]


@dataclass(frozen=True, slots=True)
class Begun:
    """A subtask that a handler works on; `held` tells whether a worker has named its claim lately."""

    id: int
    key: str
    kind: str
    state: SubtaskState
    executor: str | None
    timeout: float | None
    typical_seconds: float | None
    seconds: float
    asked_seconds: float | None  # since it was asked to stop
    held: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A subtask that failed and holds the task."""

    id: int
    key: str
    kind: str
    error_type: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Delayed:
    """A subtask that may begin later; `due_in` is negative where that time has passed.

    Its last attempt failed; or it was `declined` by a worker without a handler.
    """

    id: int
    key: str
    due_at: datetime
    due_in: float
    failures: int
    max_attempts: int
    declined: bool
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Gated:
    """Subtasks that wait behind one sort of gate and for no upstream."""

    gate: str
    count: int
    some: Sequence[int]
    key: str


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker of a queue that the task needs; `kinds` are those of the asked ones that it has, None if it never said."""

    name: str
    host: str
    pid: int
    queues: Sequence[str]
    alive: bool
    stopped: bool
    free_slots: int
    seconds: float  # since it started
    silent_seconds: float
    kinds: frozenset[str] | None

    def lacks(self, kind: str) -> bool:
        """Tell whether it is known not to have the kind."""
        return self.kinds is not None and kind not in self.kinds


@dataclass(frozen=True, slots=True)
class Locker:
    """A transaction that holds the task's row; `seconds` is None where PostgreSQL hides it from us."""

    pid: int
    application: str
    state: str | None
    seconds: float | None

    @property
    def is_ours(self) -> bool:
        """Tell whether a server or a worker holds it."""
        return self.application.startswith("taskserver-")


@dataclass(frozen=True, slots=True)
class Broker:
    """Redis as it answered: the length of each queue, or why it did not."""

    lengths: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What one snapshot of the database says."""

    course: Course
    groups: Sequence[Group] = ()
    begun: Sequence[Begun] = ()
    failed: Sequence[Failed] = ()
    undoable: bool = True
    delayed: Sequence[Delayed] = ()
    delayed_count: int = 0  # without the declined
    named: int = 0  # what an operator named in a task that is failing: it begins all the same
    gated: Sequence[Gated] = ()
    workers: Sequence[WorkerFacts] = ()
    locker: Locker | None = None
    ahead: int = 0  # tasks of the account that are served before it
    line: Sequence[int] = ()  # of the account's rows that were inserted by SQL and wait to be started, the first


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a diagnosis is made from; `unmoved` was seen to lie for `unmoved_seconds` although it could move."""

    stored: Stored
    broker: Broker
    waits: Waits
    unmoved: Sequence[Group] = ()
    unmoved_seconds: float | None = None

    def live_workers(self, queue: str) -> list[WorkerFacts]:
        """Return the live workers of a queue."""
        return [one for one in self.stored.workers if one.alive and queue in one.queues]
