"""The task's narrow progress row: the lock of everything that happens in a task, and its counters.

Every transition locks this row first, in a statement of its own: under READ COMMITTED a statement that had to wait still
reads other rows as they were before the wait, so what is decided is decided in the next statement. Counters move by
deltas in the transaction of the move, so that parent and children agree in every committed snapshot.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, text

from schema.errors import NotFound
from schema.identity import TaskId
from schema.roundtrip import Request, Row

STARTABLE_CHANNEL = "taskserver_startable"
SETTLED_CHANNEL = "taskserver_settled"

COLUMNS = (
    "id, open, startable, pending, ready, running, canceling, failed, successful, allowed, concurrency, stopping, undoing,"
    " turning, change_number"
)
Stop = Literal["CANCEL", "DEADLINE"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One task's counters by state, and its course.

    `allowed` counts the FAILED that may fail; no step of a rollback may. `open` is False while nothing may start. `stopping` tells why the task ends as
    soon as nothing runs. `undoing` counts the subtasks still to be rolled back; None while the task goes forward. `turning` is
    not None while a verb goes on in portions (`schema.transitions.turning`).
    """

    id: TaskId
    open: bool
    startable: int
    pending: int
    ready: int
    running: int
    canceling: int
    failed: int
    successful: int
    allowed: int
    concurrency: int | None
    stopping: Stop | None
    undoing: int | None
    turning: int | None
    change_number: int

    @classmethod
    def of(cls, row: Row) -> "Progress":
        """Return the progress that a row with `COLUMNS` holds."""
        return cls(**{name: row[name] for name in cls.__slots__})

    @property
    def total(self) -> int:
        """Count all subtasks."""
        return self.pending + self.ready + self.begun + self.failed + self.successful

    @property
    def begun(self) -> int:
        """Count what a handler is working on."""
        return self.running + self.canceling

    @property
    def is_failing(self) -> bool:
        """Tell whether a subtask has failed that must not."""
        return self.failed > self.allowed

    @property
    def only_named(self) -> bool:
        """Tell whether nothing may start but what an operator named."""
        return self.is_failing or self.undoing is not None

    @property
    def is_complete(self) -> bool:
        """Tell whether every subtask has ended, and well or as allowed."""
        return not self.is_failing and self.pending + self.ready + self.begun == 0

    @property
    def may_start(self) -> bool:
        """Tell whether something of the task waits for a release."""
        return self.open and self.turning is None and self.startable > 0 and self.room != 0

    @property
    def room(self) -> int | None:
        """Return how many more subtasks may begin under the task's limit; None without one."""
        return None if self.concurrency is None else max(0, self.concurrency - self.begun - self.ready)


_LOCK = text(f"SELECT {COLUMNS} FROM task_progress WHERE id = :task FOR UPDATE")
_LOCK_NOT_DURABLE = text(
    f"SELECT {COLUMNS}, set_config('synchronous_commit', 'off', true) FROM task_progress WHERE id = :task FOR UPDATE"
)
_READ = text(f"SELECT {COLUMNS} FROM task_progress WHERE id = :task")
_LOCK_ALL = text(
    f"SELECT {COLUMNS} FROM task_progress WHERE id = ANY (CAST(:tasks AS bigint[])) ORDER BY id FOR UPDATE"
)
_TRY = text(
    """
SELECT task, set_config('lock_timeout', :patience, true)
FROM unnest(CAST(:tasks AS bigint[]), CAST(:keys AS integer[])) AS wanted (task, key)
WHERE pg_try_advisory_xact_lock(:space, key)
"""
)
_NOTIFY = text("SELECT pg_notify(:channel, :task)")

_DISPATCH_LOCK_SPACE = 0x7473
_PATIENCE = "250ms"  # for a dispatcher: a worker that stands still with a lock must hold up its own task alone


def lock(connection: Connection, task: TaskId) -> Progress:
    """Lock the task's progress row until the transaction ends, and return it.

    Raises:
        NotFound: There is no such task.

    """
    return locked(task, connection.execute(_LOCK, {"task": task}).mappings().all())


def lock_request(task: TaskId, *, durable: bool = True) -> Request:
    """Return the statement that locks the task's progress row until the transaction ends.

    With `durable=False` the commit returns before it is on disk: only for what may safely happen again (claims).
    """
    return Request(_LOCK if durable else _LOCK_NOT_DURABLE, {"task": task})


def locked(task: TaskId, rows: Sequence[Row]) -> Progress:
    """Return the row that a lock answered.

    Raises:
        NotFound: There is no such task.

    """
    if not rows:
        raise missing(task)
    return Progress.of(rows[0])


def missing(task: TaskId) -> NotFound:
    """Return the error for a task that is not there, or is another account's: the two must look the same."""
    return NotFound(f"task {task} does not exist: list the tasks to see which do", target=str(task))


def lock_all(connection: Connection, tasks: Collection[TaskId]) -> list[Progress]:
    """Lock the progress rows of several tasks, in the order of their ids.

    Only for who holds no lock yet: all others hold one task's row and wait for no second, so none waits in a circle.
    """
    return [Progress.of(row) for row in connection.execute(_LOCK_ALL, {"tasks": sorted(tasks)}).mappings()]


def try_dispatch_locks(connection: Connection, tasks: Sequence[TaskId]) -> list[TaskId]:
    """Take the right to plan these tasks until the transaction ends; return those that no other dispatcher has.

    From then on the transaction waits for locks a short while only, and then fails with `Busy`.

    Not the progress rows with SKIP LOCKED: busy workers hold those often, and the tasks would starve.
    """
    keys = [(task & 0xFFFFFFFF) - 0x80000000 for task in tasks]
    parameters = {"space": _DISPATCH_LOCK_SPACE, "tasks": list(tasks), "keys": keys, "patience": _PATIENCE}
    taken = set(connection.execute(_TRY, parameters).scalars())
    return [task for task in tasks if task in taken]


def wake_dispatcher(connection: Connection, task: TaskId) -> None:
    """Let a dispatcher look at the task as soon as this transaction has committed."""
    connection.execute(_NOTIFY, {"channel": STARTABLE_CHANNEL, "task": str(task)})


def announce_settled(connection: Connection, task: TaskId) -> None:
    """Let who waits for the task know as soon as this transaction has committed."""
    connection.execute(_NOTIFY, {"channel": SETTLED_CHANNEL, "task": str(task)})


def read(connection: Connection, task: TaskId) -> Progress:
    """Return the progress row as it stands."""
    return Progress.of(connection.execute(_READ, {"task": task}).mappings().one())
