"""Back-off grows, jitters and is capped; which errors are worth another attempt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.backoff import MAX_DELAY_SECONDS, backoff_delay
from workers.failures import BadArgument, BadResult, Cancelled, TimedOut
from workers.retry import Retryable


@pytest.mark.parametrize(
    ("failures", "random", "delay"), [(1, 0.0, 1.0), (1, 0.5, 2.0), (2, 0.0, 2.0), (3, 0.5, 8.0), (4, 0.999, 23.984)]
)
def test_the_delay_doubles_with_each_failure(failures: int, random: float, delay: float) -> None:
    assert backoff_delay(2.0, failures=failures, random=lambda: random) == pytest.approx(delay)


@given(
    backoff=st.floats(0, 1e9),
    failures=st.integers(1, 100_000),
    random=st.floats(0, 1, exclude_max=True),
)
def test_the_delay_stays_within_its_bounds(backoff: float, failures: int, random: float) -> None:
    delay = backoff_delay(backoff, failures=failures, random=lambda: random)

    doubled = backoff * 2.0 ** min(failures - 1, 64)
    assert min(MAX_DELAY_SECONDS, doubled * 0.5) <= delay <= min(MAX_DELAY_SECONDS, doubled * 1.5)


@pytest.mark.parametrize("error", [ValueError(), TimedOut(), BadResult(), SystemExit()])
def test_every_failure_is_worth_another_attempt_by_default(error: BaseException) -> None:
    assert Retryable().covers(error)


@pytest.mark.parametrize("error", [BadArgument(), Cancelled()])
def test_bad_arguments_and_cancels_never_are(error: BaseException) -> None:
    assert not Retryable(only=(BaseException,)).covers(error)


def test_only_what_is_named_is_retried() -> None:
    retryable = Retryable(only=(OSError,), never=(FileNotFoundError,))

    assert retryable.covers(ConnectionError())
    assert not retryable.covers(FileNotFoundError())
    assert not retryable.covers(ValueError())


def test_a_timeout_counts_as_the_timeout_error_of_python() -> None:
    assert not Retryable(never=(TimeoutError,)).covers(TimedOut())
    assert Retryable(only=(TimeoutError,)).covers(TimedOut())
    assert not Retryable(only=(ValueError,)).covers(TimedOut())
