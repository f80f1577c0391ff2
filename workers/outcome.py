"""Judging one attempt: what the handler returned or raised becomes one frozen `Outcome`, before the database is touched.

Pure. A subtask that is being cancelled ends FAILED whatever is judged here: the record sees to that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from schema.backoff import backoff_delay
from schema.identity import SubtaskId
from schema.transitions.records import Outcome
from workers.failures import Refused, ResultTooLarge, error_message, error_type
from workers.retry import Retryable


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned: its result as JSON has it, and how many bytes that takes."""

    value: object = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler, or the check of its arguments or result, raised; `log_line` is where its log tells of it."""

    error: BaseException
    log_line: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the judge needs to know of the attempt; `failures` counts those before it."""

    id: SubtaskId
    started_at: datetime
    finished_at: datetime
    failures: int
    max_attempts: int
    backoff_seconds: float
    retryable: Retryable


def judge(attempt: Attempt, ending: Returned | Raised, *, random: Callable[[], float]) -> Outcome:
    """Return the outcome of an attempt that ended like this.

    Args:
        attempt: Which, and what is left to it.
        ending: How it ended.
        random: Returns a number from [0, 1), for the jitter of the back-off.

    """
    match ending:
        case Returned(value=value):
            return Outcome(attempt.id, "SUCCESSFUL", attempt.started_at, attempt.finished_at, result=value)
        case Raised(error=error) if attempt.failures + 1 < attempt.max_attempts and attempt.retryable.covers(error):
            delay = backoff_delay(attempt.backoff_seconds, failures=attempt.failures + 1, random=random)
            return _unsuccessful(attempt, ending, delay_seconds=delay)
        case Raised():
            return _unsuccessful(attempt, ending, delay_seconds=None)


def check_size(returned: Returned, *, limit_bytes: int) -> None:
    """Check that a result may be stored.

    Raises:
        ResultTooLarge: It takes more than the limit.

    """
    if returned.size_bytes > limit_bytes:
        raise ResultTooLarge(
            f"the result takes {returned.size_bytes} bytes as JSON, at most {limit_bytes} are stored "
            "(TASKSERVER_MAX_VALUE_BYTES): store it elsewhere and return where"
        )


def _unsuccessful(attempt: Attempt, raised: Raised, *, delay_seconds: float | None) -> Outcome:
    return Outcome(
        attempt.id,
        "FAILED" if delay_seconds is None else "RETRY",
        attempt.started_at,
        attempt.finished_at,
        result=raised.error.answer if isinstance(raised.error, Refused) else None,
        delay_seconds=delay_seconds,
        error_type=error_type(raised.error),
        error_message=error_message(raised.error),
        error_line=raised.log_line,
    )
