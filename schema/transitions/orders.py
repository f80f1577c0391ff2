"""What every operator's verb begins and ends with: who asks, the locked task as it stands, and the audit.

A verb locks the task's progress row, reads in the next statement, and decides by what it read: of two operators at once
the second sees what the first has done, and gets a precise error. Each verb writes one row of the audit, in its transaction.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, text

from schema.errors import NotFound, WrongState
from schema.identity import SubtaskId, TaskId
from schema.states import Operation, SubtaskState, TaskState
from schema.transitions import progress
from schema.transitions.progress import Progress

UNTIL_SETTLED = "wait until it has settled"


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks for a verb, in which account, and why. Without an account the asker is the product itself."""

    principal: str
    account: str | None
    reason: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A task under its lock: what a verb decides by."""

    progress: Progress
    state: TaskState
    operation: Operation

    @property
    def id(self) -> TaskId:
        """Return the task's id."""
        return self.progress.id

    def require(self, verb: str, states: Collection[TaskState]) -> None:
        """Check that the verb may be used in the task's state.

        Raises:
            WrongState: It may not.

        """
        if self.state not in states:
            wanted = " or ".join(sorted(states))
            raise WrongState(f"task {self.id} is {self.state}: {verb} needs {wanted}", target=str(self.id))

    def refuse(self, verb: str, why: str, *, cure: str) -> WrongState:
        """Return the error for a verb that the task's course forbids, with what to do instead."""
        return WrongState(f"task {self.id} {why}, {verb} is not possible: {cure}", target=str(self.id))


_TASK = text("SELECT account, state, operation FROM tasks WHERE id = :task")


def lock_task(connection: Connection, task: TaskId, order: Order) -> Subject:
    """Lock the task and return it as it stands.

    Raises:
        NotFound: The account has no such task.

    """
    locked = progress.lock(connection, task)
    row = connection.execute(_TASK, {"task": task}).one()
    if order.account is not None and row.account != order.account:
        raise progress.missing(task)
    return Subject(locked, TaskState(row.state), Operation(row.operation))


@dataclass(frozen=True, slots=True)
class Part:
    """A subtask of a locked task."""

    id: SubtaskId
    key: str
    state: SubtaskState
    operation: Operation

    def require(self, verb: str, state: SubtaskState) -> None:
        """Check that the verb may be used in the subtask's state.

        Raises:
            WrongState: It may not.

        """
        if self.state is not state:
            raise WrongState(
                f"subtask {self.key!r} ({self.id}) is {self.state}: {verb} needs {state}", target=str(self.id)
            )


_SUBTASK = text(
    """
SELECT s.id, d.key, s.state, s.operation FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id
WHERE s.id = :subtask AND s.task_id = :task
"""
)


def find_subtask(connection: Connection, task: TaskId, subtask: SubtaskId) -> Part:
    """Return a subtask of a locked task.

    Raises:
        NotFound: The task has no such subtask.

    """
    row = connection.execute(_SUBTASK, {"task": task, "subtask": subtask}).one_or_none()
    if row is None:
        raise NotFound(f"task {task} has no subtask {subtask}: its detail lists those that it has", target=str(subtask))
    return Part(SubtaskId(row.id), row.key, SubtaskState(row.state), Operation(row.operation))


_NOTE = text(
    """
INSERT INTO operations (task_id, subtask_id, verb, principal, from_state, to_state, reason, trace_id, created_at)
SELECT :task, :subtask, :verb, :principal, :from_state,
    coalesce((SELECT state FROM subtasks WHERE id = :subtask), (SELECT state FROM tasks WHERE id = :task)), :reason, :trace_id,
    clock_timestamp()
"""
)


def note(connection: Connection, verb: str, order: Order, subject: Subject, part: Part | None = None) -> None:
    """Write the verb's row of the audit; last in its transaction, so that it tells the state that came of it."""
    connection.execute(
        _NOTE,
        {
            "task": subject.id,
            "subtask": None if part is None else part.id,
            "verb": verb,
            "principal": order.principal,
            "from_state": subject.state if part is None else part.state,
            "reason": order.reason,
            "trace_id": order.trace_id,
        },
    )
