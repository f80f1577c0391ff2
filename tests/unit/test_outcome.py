"""Every ending of an attempt becomes one outcome, and one text in its log."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from schema.identity import SubtaskId
from workers import Context
from workers.binding import Binding
from workers.failures import (
    MAX_MESSAGE_LENGTH,
    BadArgument,
    BadResult,
    Cancelled,
    ResultTooLarge,
    TimedOut,
    UnknownKind,
    error_message,
    failure_text,
)
from workers.outcome import Attempt, Raised, Returned, check_size, judge
from workers.retry import Retryable

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ATTEMPT = Attempt(
    SubtaskId(7),
    started_at=NOW,
    finished_at=NOW + timedelta(seconds=1),
    failures=0,
    max_attempts=3,
    backoff_seconds=2.0,
    retryable=Retryable(never=(KeyError,)),
)


class HandlerError(Exception):
    pass


class Worded(Exception):
    def __str__(self) -> str:
        return f"<{self.args[0]}>"


def judged(error: BaseException, attempt: Attempt = ATTEMPT) -> tuple[str, str | None, float | None]:
    outcome = judge(attempt, Raised(error, log_line=4), random=lambda: 0.5)
    assert outcome.error_line == 4
    return outcome.verdict, outcome.error_type, outcome.delay_seconds


def test_a_return_is_a_success_with_its_result() -> None:
    outcome = judge(ATTEMPT, Returned({"cpu": 8}, 9), random=lambda: 0.5)

    assert (outcome.id, outcome.verdict, outcome.result) == (7, "SUCCESSFUL", {"cpu": 8})
    assert (outcome.started_at, outcome.finished_at) == (NOW, NOW + timedelta(seconds=1))
    assert (outcome.error_type, outcome.delay_seconds, outcome.lost) == (None, None, False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (HandlerError("x"), ("RETRY", f"{__name__}.HandlerError", 2.0)),
        (ValueError("x"), ("RETRY", "ValueError", 2.0)),
        (SystemExit(3), ("RETRY", "SystemExit", 2.0)),
        (KeyError("x"), ("FAILED", "KeyError", None)),
        (TimedOut("x"), ("RETRY", "timeout", 2.0)),
        (UnknownKind("x"), ("RETRY", "unknown_kind", 2.0)),
        (BadResult("x"), ("RETRY", "bad_result", 2.0)),
        (ResultTooLarge("x"), ("RETRY", "result_too_large", 2.0)),
        (BadArgument("x"), ("FAILED", "bad_argument", None)),
        (Cancelled("x"), ("FAILED", "cancelled", None)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_was_raised_decides(error: BaseException, expected: tuple[str, str, float | None]) -> None:
    assert judged(error) == expected


@pytest.mark.parametrize(
    ("failures", "verdict", "delay"), [(0, "RETRY", 2.0), (1, "RETRY", 4.0), (2, "FAILED", None), (9, "FAILED", None)]
)
def test_the_last_attempt_fails(failures: int, verdict: str, delay: float | None) -> None:
    assert judged(ValueError(), replace(ATTEMPT, failures=failures)) == (verdict, "ValueError", delay)


def test_a_result_over_the_limit_is_refused() -> None:
    check_size(Returned("x", 100), limit_bytes=100)

    with pytest.raises(ResultTooLarge, match=r"101 bytes.*at most 100"):
        check_size(Returned("x", 101), limit_bytes=100)


def test_a_message_is_short_and_storable() -> None:
    message = error_message(ValueError("a\x00b\ud800c\r\n" + "x" * 5000))

    assert message.startswith("a\ufffdb\ufffdc\nxxx")
    assert len(message) == MAX_MESSAGE_LENGTH


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyError("x"), "KeyError: 'x'"),
        (KeyError("the host"), "'the host'"),
        (KeyError(), "KeyError"),
        (ValueError(""), "ValueError"),
        (ValueError("no room"), "no room"),
        (RuntimeError("m"), "m"),
        (UnicodeError("连接失败"), "连接失败"),
        (HandlerError("m", 5), "('m', 5)"),
        (TimedOut("late"), "late"),
        (Worded("m"), f"{__name__}.Worded: <m>"),
    ],
)
def test_a_word_that_nobody_wrote_as_a_message_comes_after_its_type(error: BaseException, message: str) -> None:
    assert error_message(error) == message


def test_an_error_without_a_message_is_named() -> None:
    assert error_message(ValueError()) == "ValueError"


def test_an_error_that_cannot_be_shown_is_still_told() -> None:
    class Unreadable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert "RuntimeError" in error_message(Unreadable())
    assert "Unreadable" in failure_text(Unreadable())


def raised_by(binding: Binding, arguments: dict[str, object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any
        binding.run(Context(deadline=0.0), arguments)
    error = caught.value
    # The frames of this test stand for nothing in a worker.
    return error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)


def test_the_traceback_begins_in_the_handler() -> None:
    def handler(host: str) -> None:
        raise HandlerError(f"{host} is down")

    text = failure_text(raised_by(Binding(handler, kind="a.b"), {"host": "db"}))

    assert text.startswith("Traceback (most recent call last):\n")
    assert "in handler" in text
    assert "binding.py" not in text
    assert text.endswith("HandlerError: db is down\n")


def test_where_a_handler_was_interrupted_is_told() -> None:
    def handler(ctx: Context) -> None:
        ctx.wait(60)

    text = failure_text(raised_by(Binding(handler, kind="a.b"), {}))

    assert "in handler" in text
    assert text.endswith("TimedOut: the attempt took longer than its timeout\n")


def test_what_the_product_found_wrong_is_one_line() -> None:
    def handler(host: str) -> None: ...

    text = failure_text(raised_by(Binding(handler, kind="a.b"), {}))

    assert text == "bad_argument: /host: is required: give it\n"


def test_the_cause_of_an_error_is_told_too() -> None:
    def handler() -> None:
        try:
            _ = {}["key"]  # type: ignore[var-annotated]
        except KeyError as error:
            raise HandlerError("outer") from error

    text = failure_text(raised_by(Binding(handler, kind="a.b"), {}))

    assert "KeyError: 'key'" in text
    assert "direct cause" in text
