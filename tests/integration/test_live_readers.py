"""Clients that open streams and do not read them, that open too many, and streams when the server ends."""

import logging
import time
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.transitions.logs import LogRow, write_logs
from taskserver.api import http_connection, log_following
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role, Tokens, create_principal
from tests.api_client import SECRET_KEY
from tests.eventually import eventually
from tests.factories import StoredTask, make_task
from tests.integration.test_queries_statements import counted
from tests.live import LiveApi, live_api

CHUNK = 64 * 1024
CHUNKS = 128  # more than the kernel takes for a client that does not read


@pytest.fixture
def task(engine: Engine) -> StoredTask:
    return make_task(engine, {"a": ()})


@pytest.fixture
def talkative(task: StoredTask) -> StoredTask:
    """A task whose subtask has written much and still runs."""
    [claimed] = task.begin("a")
    line = "x" * 127 + "\n"
    rows = [LogRow(task.id, claimed.id, claimed.claim, number, line * (CHUNK // 128)) for number in range(CHUNKS)]
    with transaction(task.engine) as connection:
        write_logs(connection, rows)
    return task


def events_of(task: StoredTask) -> str:
    return f"/instances/{task.id}/events"


def log_of(task: StoredTask) -> str:
    return f"/instances/{task.id}/subtasks/{task.ids['a']}/log"


def held_bytes(live: LiveApi) -> list[int]:
    """Return what the server holds for each client that does not take it."""
    transports = [one.transport for one in list(live.server.server_state.connections)]
    return [size for one in transports if (size := one.get_write_buffer_size())]


def stuck(live: LiveApi, count: int = 1) -> None:
    """Wait until so many clients take no more."""
    eventually(lambda: len(held_bytes(live)) == count, what=f"{count} do not read")


def test_who_takes_nothing_is_dropped(
    live: LiveApi, talkative: StoredTask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_connection, "_STALL_SECONDS", 0.3)
    caplog.set_level(logging.INFO)

    with live.unread(log_of(talkative)):
        stuck(live)
        live.followed_by(0)
        eventually(lambda: held_bytes(live) == [], what="nothing is held")

    assert "Exception" not in caplog.text


def test_who_takes_nothing_of_a_plain_answer_is_dropped_as_well(
    live: LiveApi, talkative: StoredTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "_STALL_SECONDS", 0.3)

    with live.unread(log_of(talkative), accept="application/json") as connection:
        stuck(live)
        eventually(lambda: held_bytes(live) == [], what="nothing is held")
        taken = sum(map(len, iter(lambda: connection.recv(CHUNK), b"")))

    assert taken < CHUNK * CHUNKS  # what was under way


def test_who_takes_a_little_now_and_then_gets_everything(
    live: LiveApi, talkative: StoredTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "_STALL_SECONDS", 1.0)
    lines = live.data(log_of(talkative))["log"].count("\n")

    with live.unread(log_of(talkative), accept="application/json") as connection:
        stuck(live)
        began, taken = time.monotonic(), bytearray()
        while not taken.endswith(b"}") and (piece := connection.recv(CHUNK)):
            taken += piece
            if len(taken) < CHUNK * CHUNKS / 3:
                pauses = len(taken) // (CHUNK * 8) * 0.4
                eventually(lambda due=began + pauses: time.monotonic() >= due, what="the next may be read")
        took = time.monotonic() - began

    assert took > 1.5  # nobody who takes nothing for as long gets so far
    assert taken.count(b"\\n") == lines


@pytest.mark.parametrize("question", ["", "?tail=100000"])
def test_little_is_held_for_who_does_not_read(
    live: LiveApi, served: Engine, talkative: StoredTask, question: str
) -> None:
    with counted(served) as statements, live.unread(log_of(talkative) + question):
        stuck(live)
        [held] = held_bytes(live)
        live.data(log_of(talkative), tail=1)
        pieces = len([one for one in statements if "measured" in one])

    assert held <= 1.2 * log_following._PIECE_BYTES
    assert pieces < CHUNK * CHUNKS / log_following._PIECE_BYTES


def test_a_principal_has_so_many_streams_and_no_more(served: Engine, stack: EmbeddedStack, task: StoredTask) -> None:
    row = create_principal(served, name="other", role=Role.TASK_VIEWER, account="0")
    other = f"Bearer {Tokens(SECRET_KEY).token(row.name, row.serial)}"
    with live_api(served, stack.redis_url, max_streams_per_principal=2) as live, ExitStack() as streams:
        first = streams.enter_context(ExitStack())
        first.enter_context(live.stream(events_of(task)))
        streams.enter_context(live.stream(log_of(task)))
        live.followed_by(2)

        with live.stream(events_of(task)) as stream:
            refused = stream.response
        with live.stream(events_of(task), authorization=other) as stream:
            others = stream.response.status_code
        first.close()
        live.followed_by(1)
        with live.stream(log_of(task)) as stream:
            again = stream.response.status_code

    assert (refused.status_code, refused.json()["error"]["code"], others, again) == (429, 10004, 200, 200)
    assert "admin" in refused.json()["error"]["message"]
    assert "TASKSERVER_MAX_STREAMS_PER_PRINCIPAL" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) > 0


def test_a_server_has_so_many_streams_and_no_more(served: Engine, stack: EmbeddedStack, task: StoredTask) -> None:
    with live_api(served, stack.redis_url, max_streams=1) as live, live.stream(events_of(task)):
        live.followed_by(1)

        with live.stream(log_of(task)) as stream:
            refused = stream.response
        plain = live.data(log_of(task))

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, 10004)
    assert "TASKSERVER_MAX_STREAMS " in refused.json()["error"]["message"]
    assert plain["log"] == ""


def test_streams_end_quietly_and_soon_with_the_server(
    live: LiveApi, task: StoredTask, talkative: StoredTask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(live.unread(log_of(talkative)))
            clients.enter_context(live.unread(f"{log_of(talkative)}?tail=100000"))
            clients.enter_context(live.stream(events_of(task)))
        live.followed_by(9)
        stuck(live, 6)

        began = time.monotonic()
        live.stop()
        took = time.monotonic() - began

    assert took < 2
    assert "Exception" not in caplog.text
    assert "exceeded" not in caplog.text
