"""Waiting for a task, and following a log."""

import threading
import time
from collections.abc import Iterator

import pytest

from taskserver.client import (
    NotFound,
    ServerRefused,
    ServerUnreachable,
    TaskDetail,
    TaskFailed,
    TaskServer,
    TaskStatus,
    TaskTimeout,
    async_tasks,
)
from taskserver.client.answers import Failure
from tests.scripted_server import (
    ScriptedServer,
    after,
    data,
    detail,
    error,
    events,
    held,
    lost,
    scripted_server,
    status,
    unchanged,
)

STATUS = "/api/v2/tasks/instances/7/status"


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(scripted: ScriptedServer) -> Iterator[TaskServer]:
    with TaskServer(scripted.url, "t", patience_seconds=5, waiting_patience_seconds=5) as client:
        yield client


def test_wait_lets_the_server_hold_its_answer_until_the_task_is_settled(
    scripted: ScriptedServer, server: TaskServer
) -> None:
    scripted.answers(data(status()), data(status()), data(status("FAILED")))

    settled = server.task(7).wait()

    assert (settled.state, settled.is_successful) == ("FAILED", False)
    assert {one.path for one in scripted.asked} == {STATUS}
    assert [one.query for one in scripted.asked[1:]] == [{"until": "settled", "waitSeconds": "30.0"}] * 2


def test_progress_is_told_at_each_change_and_once(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(
        data(status(change=1), ETag='"1"'),
        data(status(change=2), ETag='"2"'),
        unchanged('"2"'),
        data(status("SUCCESSFUL", change=3), ETag='"3"'),
    )
    told: list[int] = []

    server.task(7).wait(on_progress=lambda status: told.append(status.change_number))

    assert told == [1, 2, 3]
    assert [one.headers.get("if-none-match") for one in scripted.asked] == [None, '"1"', '"2"', '"2"']


def test_changes_are_yielded_up_to_the_settled_one(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data(status(), ETag='"1"'), lost, data(status("REVOKED", change=2), ETag='"2"'))

    states = [one.state for one in server.task(7).changes()]

    assert states == ["RUNNING", "REVOKED"]


def test_an_error_of_the_callers_own_function_comes_through(scripted: ScriptedServer, server: TaskServer) -> None:
    def fail(_: TaskStatus) -> None:
        raise ZeroDivisionError

    scripted.answers(data(status()))

    with pytest.raises(ZeroDivisionError):
        server.task(7).wait(on_progress=fail)


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_task_that_goes_on_for_longer_ends_the_wait_with_its_last_status(
    scripted: ScriptedServer, server: TaskServer, seconds: float
) -> None:
    scripted.answers(data(status(change=4)), *[held(data(status(change=5)))] * 9)

    with pytest.raises(TaskTimeout, match="task 7 is RUNNING after") as timeout:
        server.task(7).wait(timeout=seconds)

    assert timeout.value.last_status.change_number == (5 if seconds else 4)
    assert isinstance(timeout.value, TimeoutError)


def test_a_server_that_is_silent_does_not_stretch_the_timeout(
    scripted: ScriptedServer, server: TaskServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_tasks, "_LATE_SECONDS", 0.2)
    for_ever = threading.Event()
    scripted.answers(data(status()), *[after(for_ever, lost)] * 20)
    began = time.monotonic()

    with pytest.raises(ServerUnreachable, match="no answer"):
        server.task(7).wait(timeout=0.3)

    for_ever.set()
    assert time.monotonic() - began < 10


def test_a_failure_is_an_error_only_for_who_asks(scripted: ScriptedServer, server: TaskServer) -> None:
    failed = {**detail("FAILED"), "error": {"type": "ValueError", "message": "out of luck", "subtask": "a"}}
    scripted.answers(data(status("FAILED")), data(failed), data(status("SUCCESSFUL")))

    with pytest.raises(TaskFailed, match="task 7 is FAILED: out of luck") as error:
        server.task(7).wait(raise_on_failure=True)
    settled = server.task(7).wait(raise_on_failure=True)

    assert error.value.detail.error is not None
    assert settled.is_successful


@pytest.mark.parametrize(
    ("error_type", "message", "told"),
    [
        ("RuntimeError", "m", "RuntimeError: m"),
        ("KeyError", "KeyError: 'x'", "KeyError: 'x'"),
        ("ValueError", "ValueError", "ValueError"),
        ("timeout", "", "timeout"),
        (None, "m", "m"),
        ("ValueError", "out of luck", "out of luck"),
    ],
)
def test_a_reason_of_one_word_is_told_with_its_type(error_type: str | None, message: str, told: str) -> None:
    failure = Failure.of({"type": error_type, "message": message})

    assert failure.in_words == told
    failed = {**detail("FAILED"), "error": {"type": error_type, "message": message}}
    assert str(TaskFailed(TaskDetail.of(failed))) == f"task 7 is FAILED: {told}"


def test_a_task_that_is_not_there_is_told_at_once(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(error(404, 20000, "no task 7"))

    with pytest.raises(NotFound, match="no task 7"):
        server.task(7).wait()


@pytest.mark.parametrize("ending", ["break", "close"])
def test_a_log_that_breaks_off_goes_on_after_its_cursor(
    scripted: ScriptedServer, server: TaskServer, ending: str
) -> None:
    scripted.answers(
        events([("one\n", "4.0"), ("two\n", "4.1")], ending=ending), lost, events([("three\n", "4.2")], ending="end")
    )

    log = list(server.task(7).subtask(70).follow_log(attempt=2, tail=5))

    assert log == ["one\n", "two\n", "three\n"]
    assert {one.headers["accept"] for one in scripted.asked} == {"text/event-stream"}
    assert [one.query for one in scripted.asked] == [
        {"attempt": "2", "tail": "5"},
        {"attempt": "2", "after": "4.1"},
        {"attempt": "2", "after": "4.1"},
    ]


def test_a_log_that_cannot_be_followed_again_is_unreachable(scripted: ScriptedServer) -> None:
    scripted.answers(events([("one\n", "4.0")], ending="break"), *[lost] * 100)
    read: list[str] = []

    with (
        TaskServer(scripted.url, "t", waiting_patience_seconds=0.3) as server,
        pytest.raises(ServerUnreachable),
    ):
        read.extend(server.task(7).subtask(70).follow_log())

    assert len(scripted.asked) > 1


def test_a_stream_that_is_refused_tells_why(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(events([("one\n", "4.0")], ending="close"), error(401, 30001, "the token was rotated"))

    with pytest.raises(ServerRefused, match="the token was rotated"):
        list(server.task(7).subtask(70).follow_log())


def test_a_server_without_streams_is_told_so(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data({"log": "one\n", "cursor": "4.0"}))

    with pytest.raises(ServerRefused, match="without events"):
        list(server.task(7).subtask(70).follow_log())


def test_who_stops_reading_ends_the_stream(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(events([("one\n", "4.0")], ending="hold"))

    for text in server.task(7).subtask(70).follow_log():
        assert text == "one\n"
        break

    assert scripted.gone.wait(10)
