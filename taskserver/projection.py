"""What the OCP API calls the stored states, operations and times: the one place where the two meet.

Pure. The stored words are `schema.states`; whoever shows a task in OCP's words comes through here.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from schema.states import SETTLED_TASK_STATES, Operation, TaskState

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_EPOCH_MS = 253_402_300_799_999  # the end of the year 9999


class Status(StrEnum):
    """The three words that clients of OCP know for a task."""

    RUNNING = "RUNNING"
    FAILED = "FAILED"
    SUCCESSFUL = "SUCCESSFUL"


_STATUS = {
    TaskState.CREATED: Status.RUNNING,
    TaskState.RUNNING: Status.RUNNING,
    TaskState.SUSPENDED: Status.RUNNING,
    TaskState.FAILED: Status.FAILED,
    TaskState.REVOKED: Status.FAILED,
    TaskState.SUCCESSFUL: Status.SUCCESSFUL,
    TaskState.ROLLED_BACK: Status.SUCCESSFUL,
}

# What brought a task to these states, whatever verb its row names last.
_OPERATION = {TaskState.REVOKED: Operation.CANCEL, TaskState.ROLLED_BACK: Operation.ROLLBACK}


def status_of(state: TaskState) -> Status:
    """Return OCP's word for a task's state."""
    return _STATUS[state]


def states_of(status: Status) -> frozenset[TaskState]:
    """Return the states that OCP shows under one word."""
    return frozenset(state for state, shown in _STATUS.items() if shown is status)


def operation_of(state: TaskState, operation: Operation) -> Operation:
    """Return the operation that OCP shows for a task."""
    return _OPERATION.get(state, operation)


def is_settled(state: TaskState) -> bool:
    """Tell whether only a verb can make the task go on."""
    return state in SETTLED_TASK_STATES


def wire_time(moment: datetime | None) -> str | None:
    """Return the time as OCP writes it: ISO with offset, milliseconds, zeros at the end of the fraction dropped."""
    if moment is None:
        return None
    written = moment.isoformat(timespec="milliseconds")
    fraction = written[20:23].rstrip("0")
    return written[:19] + ("." + fraction if fraction else "") + written[23:]


def time_of_epoch(milliseconds: int) -> datetime | None:
    """Return the time that a column of the published tasks table holds; None for a number that is no time."""
    if not 0 <= milliseconds <= _MAX_EPOCH_MS:
        return None
    return _EPOCH + timedelta(milliseconds=milliseconds)
