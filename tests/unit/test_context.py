"""The context stops a handler that is to stop, and works alone in a unit test."""

import logging
import threading
import time

import pytest

from schema.inputs import TaskInfo
from workers import Context
from workers.context import SubtaskInfo
from workers.failures import Cancelled, TimedOut


def test_everything_has_a_default() -> None:
    context = Context()

    assert (context.attempt, context.cancelled, context.remaining_seconds, context.deadline) == (1, False, None, None)
    assert context.traceparent is None
    context.raise_if_cancelled()
    context.wait(0)


def test_the_log_is_made_once_when_it_is_asked_for() -> None:
    made: list[str] = []

    def make(name: str) -> logging.Logger:
        made.append(name)
        return logging.getLogger(name)

    context = Context(subtask=SubtaskInfo(kind="host.check"), make_log=make)
    assert made == []

    assert context.log is context.log
    assert made == ["host.check"]


def test_the_trace_of_the_submission_is_passed_on() -> None:
    assert Context(TaskInfo(traceparent="00-a-b-01")).traceparent == "00-a-b-01"


def test_a_cancelled_attempt_is_told() -> None:
    cancellation = threading.Event()
    context = Context(cancellation=cancellation)

    cancellation.set()

    assert context.cancelled
    with pytest.raises(Cancelled):
        context.raise_if_cancelled()
    with pytest.raises(Cancelled):
        context.wait(0)


def test_a_wait_ends_at_once_when_cancelled() -> None:
    cancellation = threading.Event()
    context = Context(cancellation=cancellation)
    canceller = threading.Timer(0.05, cancellation.set)
    canceller.start()
    began = time.monotonic()

    with pytest.raises(Cancelled):
        context.wait(60)

    canceller.join()
    assert time.monotonic() - began < 10


def test_a_wait_ends_at_the_deadline() -> None:
    context = Context(subtask=SubtaskInfo(timeout=0.05), deadline=time.monotonic() + 0.05)

    with pytest.raises(TimedOut, match=r"timeout of 0.05 s"):
        context.wait(60)


def test_an_attempt_whose_time_is_up_is_told() -> None:
    context = Context(deadline=time.monotonic() - 1)

    assert context.remaining_seconds == 0
    with pytest.raises(TimedOut):
        context.raise_if_cancelled()


def test_the_request_to_stop_passes_through_a_broad_except() -> None:
    def handler(context: Context) -> None:
        try:
            context.raise_if_cancelled()
        except Exception:  # noqa: BLE001 - what careless handlers do
            return

    cancellation = threading.Event()
    cancellation.set()

    with pytest.raises(Cancelled):
        handler(Context(cancellation=cancellation))


def test_nothing_can_be_added_to_a_context() -> None:
    with pytest.raises(AttributeError):
        Context().result = 1  # type: ignore[attr-defined]
