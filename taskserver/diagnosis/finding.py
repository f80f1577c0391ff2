"""What a diagnosis says: findings, and the words that their messages share."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SHOWN = 5  # ids of a finding; the count tells the rest
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


class Severity(StrEnum):
    """How urgent a finding is."""

    ERROR = "error"  # it moves only if somebody acts
    WARNING = "warning"  # it may move by itself, and somebody should look
    INFO = "info"  # it waits as it was told to


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause why a task does not move: what it is, in words with names and numbers, and what to do."""

    type: str
    severity: Severity
    message: str
    cure: str
    subtasks: Sequence[int] = ()
    subtask_count: int | None = None


def span(seconds: float) -> str:
    """Return how long something takes or took, in the unit in which people say it."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{max(0.0, seconds):.0f} s"


def counted(count: int, noun: str = "subtask") -> str:
    """Return a number with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def named(key: str, identity: int, count: int) -> str:
    """Return the first of some subtasks by name, and how many more there are."""
    first = f"subtask {key!r} ({identity})"
    return first if count <= 1 else f"{first} and {count - 1} more"
