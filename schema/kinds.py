"""What a worker registers about a kind, so that the server can check and plan without importing any handler."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class OnWorkerLost(StrEnum):
    """What happens to a subtask whose worker died while it ran."""

    RETRY = "retry"  # run it again, within the cap on lost workers
    FAIL = "fail"  # what it did may not be done twice


@dataclass(frozen=True, slots=True)
class KindInfo:
    """A registered kind: the shape of its arguments and the defaults of its subtasks."""

    name: str
    arguments_schema: Mapping[str, object] = field(default_factory=dict)
    result_schema: Mapping[str, object] = field(default_factory=dict)
    queue: str = "default"
    timeout: float | None = None
    max_attempts: int = 1
    backoff_seconds: float = 1.0
    isolated: bool = False
    has_rollback: bool = False
    prohibit_rollback: bool = False
    on_worker_lost: OnWorkerLost = OnWorkerLost.RETRY
    description: str = ""
