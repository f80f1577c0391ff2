"""What interrupts a handler: its timeout, and a ring from the main process when it is asked to stop."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from workers.alarm import alarm, ring
from workers.failures import Cancelled, TimedOut

SECONDS = 5.0


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


def _never() -> bool:
    return False


def _work(cleaned: list[str], cleaning_seconds: float) -> None:
    """Work for long, be rung at, and clean up."""
    try:
        ring(os.getpid())
        time.sleep(SECONDS)
    except Exception:  # noqa: BLE001 - as handlers have it
        cleaned.append("swallowed")
    finally:
        ring(os.getpid())
        time.sleep(cleaning_seconds)
        cleaned.append("cleaned")


def _attempt(seconds: float | None, cleaned: list[str], *, asked: bool, cleaning_seconds: float = 0.0) -> None:
    with alarm(seconds, lambda: asked):
        _work(cleaned, cleaning_seconds)


def test_who_is_asked_to_stop_and_goes_on_is_interrupted_and_cleans_up() -> None:
    cleaned: list[str] = []
    began = time.monotonic()

    with pytest.raises(Cancelled, match="interrupted"):
        _attempt(None, cleaned, asked=True)

    assert cleaned == ["cleaned"]
    assert time.monotonic() - began < SECONDS


def test_a_ring_meant_for_the_attempt_before_interrupts_nobody() -> None:
    with alarm(None, _never):
        ring(os.getpid())

    ring(os.getpid())  # between two attempts


def test_a_ring_does_not_put_off_the_timeout() -> None:
    cleaned: list[str] = []
    began = time.monotonic()

    with pytest.raises(TimedOut):
        _attempt(0.1, cleaned, asked=False)

    assert cleaned == ["cleaned"]
    assert 0.1 <= time.monotonic() - began < SECONDS


def test_neither_another_ring_nor_the_timeout_is_raised_into_the_cleaning() -> None:
    cleaned: list[str] = []

    with pytest.raises(Cancelled):
        _attempt(0.05, cleaned, asked=True, cleaning_seconds=0.1)

    assert cleaned == ["cleaned"]


def test_nothing_rings_after_the_block() -> None:
    with alarm(0.02, _never):
        pass

    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_without_a_limit_it_can_be_used_in_any_thread() -> None:
    ended = []

    def work() -> None:
        with alarm(None, _never):
            ended.append("well")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(SECONDS)

    assert ended == ["well"]
