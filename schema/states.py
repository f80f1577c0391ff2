"""The words for what happens to tasks and subtasks, and the legal moves between them.

This file owns the two enums and the two lists of arrows, nothing else. Every set (terminal, active, …) is derived from
the arrows. `docs/states.md` draws them; a test compares the two.
"""

from enum import StrEnum


class TaskState(StrEnum):
    """The life of a task."""

    CREATED = "CREATED"  # stored, nothing released yet
    RUNNING = "RUNNING"  # subtasks are released as they may start
    SUSPENDED = "SUSPENDED"  # an operator paused it
    FAILED = "FAILED"  # a subtask failed and nothing runs
    REVOKED = "REVOKED"  # cancelled or abandoned
    SUCCESSFUL = "SUCCESSFUL"  # every subtask ended well
    ROLLED_BACK = "ROLLED_BACK"  # what had begun was undone


class SubtaskState(StrEnum):
    """The life of a subtask. READY means released: its message is out, or about to be."""

    PENDING = "PENDING"
    READY = "READY"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    FAILED = "FAILED"
    SUCCESSFUL = "SUCCESSFUL"


class Operation(StrEnum):
    """What a task or a subtask is, or was last, being made to do."""

    EXECUTE = "EXECUTE"
    RETRY = "RETRY"
    ROLLBACK = "ROLLBACK"
    SKIP = "SKIP"
    CANCEL = "CANCEL"


TASK_ARROWS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.CREATED: frozenset({TaskState.RUNNING, TaskState.SUSPENDED, TaskState.REVOKED}),
    TaskState.RUNNING: frozenset(
        {
            TaskState.SUSPENDED,
            TaskState.FAILED,
            TaskState.SUCCESSFUL,
            TaskState.REVOKED,
            TaskState.ROLLED_BACK,
        }
    ),
    TaskState.SUSPENDED: frozenset(
        {
            TaskState.RUNNING,
            TaskState.FAILED,
            TaskState.SUCCESSFUL,
            TaskState.REVOKED,
            TaskState.ROLLED_BACK,
        }
    ),
    TaskState.FAILED: frozenset({TaskState.RUNNING, TaskState.REVOKED}),
    TaskState.REVOKED: frozenset(),
    TaskState.SUCCESSFUL: frozenset(),
    TaskState.ROLLED_BACK: frozenset(),
}

SUBTASK_ARROWS: dict[SubtaskState, frozenset[SubtaskState]] = {
    SubtaskState.PENDING: frozenset({SubtaskState.READY, SubtaskState.SUCCESSFUL, SubtaskState.FAILED}),
    SubtaskState.READY: frozenset({SubtaskState.RUNNING, SubtaskState.PENDING}),
    SubtaskState.RUNNING: frozenset(
        {SubtaskState.SUCCESSFUL, SubtaskState.FAILED, SubtaskState.PENDING, SubtaskState.CANCELING}
    ),
    SubtaskState.CANCELING: frozenset({SubtaskState.FAILED}),
    SubtaskState.FAILED: frozenset({SubtaskState.PENDING, SubtaskState.SUCCESSFUL}),
    SubtaskState.SUCCESSFUL: frozenset({SubtaskState.PENDING}),
}

SETTLED_TASK_STATES = frozenset(
    state
    for state, after in TASK_ARROWS.items()
    if after <= {TaskState.RUNNING, TaskState.REVOKED} and state is not TaskState.CREATED
)
FINAL_TASK_STATES = frozenset(state for state, after in TASK_ARROWS.items() if not after)
LIVE_TASK_STATES = frozenset(TaskState) - SETTLED_TASK_STATES
# In these a subtask that has FAILED may be retried or skipped.
MENDABLE_TASK_STATES = frozenset({TaskState.FAILED}) | {
    state for state, after in TASK_ARROWS.items() if TaskState.FAILED in after
}

BEGUN_SUBTASK_STATES = frozenset({SubtaskState.RUNNING}) | {
    state for state, after in SUBTASK_ARROWS.items() if after == {SubtaskState.FAILED}
}
ENDED_SUBTASK_STATES = (
    frozenset(
        state
        for state, after in SUBTASK_ARROWS.items()
        if SubtaskState.PENDING in after and SubtaskState.RUNNING not in after
    )
    - BEGUN_SUBTASK_STATES
)
