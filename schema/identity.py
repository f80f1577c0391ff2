"""The ids: numeric ones inside, 32 hex digits towards Celery, Flower and the node APIs.

A task's hex id is 24 random digits and eight zeros; its subtasks share the 24 digits and count from 1 in the last eight,
in topological order. So a subtask's hex id needs no column, and either can be found from the other.
"""

from typing import NewType

TaskId = NewType("TaskId", int)
SubtaskId = NewType("SubtaskId", int)

_SHARED = 24


def subtask_hex(task_hex: str, series_id: int) -> str:
    """Return the 32 hex id of the subtask with that series id (0-based)."""
    return f"{task_hex[:_SHARED]}{series_id + 1:08x}"


def split_hex(hex_id: str) -> tuple[str, int | None]:
    """Return the task's hex id and the series id that a hex id names; None for the task itself."""
    number = int(hex_id[_SHARED:], 16)
    return hex_id[:_SHARED] + "0" * 8, number - 1 if number else None
