"""Which calls the client makes again, and for how long."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from schema.errors import Unavailable
from taskserver.client import NotFound, ServerRefused, ServerUnreachable, TaskServer
from tests.scripted_server import (
    Answer,
    ScriptedServer,
    after,
    data,
    detail,
    error,
    lost,
    page,
    scripted_server,
    status,
    subtask,
)

CUT_OFF = error(503, 10003, "PostgreSQL does not answer")
PRINCIPAL = {"name": "x", "role": "ADMIN", "account": "0", "token": "t"}
Ask = Callable[[TaskServer], Any]


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(scripted: ScriptedServer) -> Iterator[TaskServer]:
    with TaskServer(scripted.url, "t", patience_seconds=5, waiting_patience_seconds=0.3) as client:
        yield client


@pytest.fixture
def hasty(scripted: ScriptedServer) -> Iterator[TaskServer]:
    with TaskServer(scripted.url, "t", patience_seconds=0) as client:
        yield client


@pytest.mark.parametrize("failure", [lost, CUT_OFF, page("bad gateway", status=502), page("too late", status=504)])
@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda server: server.task(7).detail(), detail()),
        (lambda server: server.submit(name="x"), detail()),
        (lambda server: server.submit_batch([{"name": "x"}]), [detail()]),
        (lambda server: server.task(7).cancel(), detail()),
        (lambda server: server.task(7).subtask(70).signal(), subtask()),
        (lambda server: server.put_definition("x", {}), {"name": "x", "version": 1}),
    ],
)
def test_what_is_safe_is_asked_again_in_the_same_words(
    scripted: ScriptedServer, server: TaskServer, failure: Answer, ask: Ask, answer: Any
) -> None:
    scripted.answers(failure, data(answer))

    ask(server)

    assert len(scripted.asked) == 2
    assert (
        len({(one.method, one.path, str(one.body), one.headers.get("idempotency-key")) for one in scripted.asked}) == 1
    )


def test_a_call_is_made_until_somebody_answers(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(lost, CUT_OFF, lost, lost, data(detail()))

    found = server.task(7).detail()

    assert found.id == 7


@pytest.mark.parametrize(
    "ask",
    [
        lambda server: server.create_principal("x", role="ADMIN", account="0"),
        lambda server: server.rotate_principal("x"),
    ],
)
def test_what_would_be_done_twice_is_asked_once(scripted: ScriptedServer, server: TaskServer, ask: Ask) -> None:
    scripted.answers(lost, data(PRINCIPAL))

    with pytest.raises(ServerUnreachable) as unknown:
        ask(server)

    assert unknown.value.may_have_arrived
    assert len(scripted.asked) == 1


def test_what_is_refused_is_asked_once(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(error(429, 10004, "slower"), data(detail()))

    with pytest.raises(ServerRefused, match="slower"):
        server.submit(name="x")

    assert len(scripted.asked) == 1


def test_a_removal_whose_answer_was_lost_is_done_when_nothing_is_found(
    scripted: ScriptedServer, server: TaskServer
) -> None:
    scripted.answers(lost, error(404, 20000, "no definition x"))

    server.delete_definition("x")

    assert [one.method for one in scripted.asked] == ["DELETE", "DELETE"]


def test_a_removal_of_what_is_not_there_is_not_found(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(error(404, 20000, "no definition x"))

    with pytest.raises(NotFound):
        server.delete_definition("x")


def test_the_server_says_how_long_to_leave_it_alone(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(error(503, 10003, "away", Retry_After="1"), data(detail()))
    began = time.monotonic()

    server.task(7).detail()

    assert time.monotonic() - began >= 1


def test_a_server_that_wants_to_be_left_alone_for_longer_than_the_patience_is_unreachable(
    scripted: ScriptedServer, server: TaskServer
) -> None:
    scripted.answers(error(503, 10003, "away for an hour", Retry_After="3600"), data(detail()))

    with pytest.raises(ServerUnreachable, match="away for an hour"):
        server.task(7).detail()

    assert len(scripted.asked) == 1


def test_without_patience_a_call_is_made_once(scripted: ScriptedServer, hasty: TaskServer) -> None:
    scripted.answers(lost, data(detail()))

    with pytest.raises(Unavailable, match=f"no answer from {scripted.url}"):
        hasty.task(7).detail()

    assert len(scripted.asked) == 1


def test_where_nobody_listens_the_patience_ends_and_nothing_was_sent() -> None:
    with socket.socket() as reserved:  # bound, so that nobody else takes the port, and not listening
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        began = time.monotonic()

        with TaskServer(url, "t", patience_seconds=0.5) as server, pytest.raises(ServerUnreachable) as unreachable:
            server.rotate_principal("x")

    assert not unreachable.value.may_have_arrived
    assert time.monotonic() - began < 5


def test_patience_begins_with_the_first_failure_not_with_the_call(scripted: ScriptedServer, server: TaskServer) -> None:
    longer_than_patience = threading.Event()
    threading.Timer(0.6, longer_than_patience.set).start()
    scripted.answers(data(status()), after(longer_than_patience, lost), data(status("SUCCESSFUL")))

    settled = server.task(7).wait()

    assert settled.is_successful
