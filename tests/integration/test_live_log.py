"""A subtask's log as a stream of events, while it is written, from a real server over a socket."""

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.transitions.claims import Claimed
from schema.transitions.logs import LogRow, write_logs
from taskserver.api import log_following
from taskserver.api.log_following import followed_log
from taskserver.api.waiting import Watch
from taskserver.queries import logs
from taskserver.queries.logs import LogQuestion, subtask_log
from taskserver.views.subtasks import LogText
from tests.factories import StoredTask, execute, make_task
from tests.integration.test_queries_statements import counted
from tests.live import SERVER, Event, LiveApi, away

SEPARATOR = re.compile(r"^#{12}\{[A-Z]+\}\{[^}]+\}#{12}$", re.MULTILINE)


@pytest.fixture
def task(engine: Engine) -> StoredTask:
    return make_task(engine, {"a": (), "b": ("a",)}, {"a": {"max_attempts": 1_000}})


def log_of(task: StoredTask) -> str:
    return f"/instances/{task.id}/subtasks/{task.ids['a']}/log"


def write(task: StoredTask, claimed: list[Claimed], sequence: int, text: str) -> None:
    row = LogRow(task.id, claimed[0].id, claimed[0].claim, sequence, text)
    with transaction(task.engine) as connection:
        write_logs(connection, [row])


def attempt(task: StoredTask, *texts: str, verdict: Any = "RETRY") -> None:
    claimed = task.begin("a")
    for sequence, text in enumerate(texts):
        write(task, claimed, sequence, text)
    task.record(claimed, verdict)


def shown(events: list[Event]) -> str:
    """Return the text of the events, with a sign for each separator."""
    return SEPARATOR.sub("=", "".join(one.data["log"] for one in events if one.name == "log"))


def test_what_is_there_comes_at_once_and_the_rest_as_it_is_written(live: LiveApi, task: StoredTask) -> None:
    attempt(task, "old\n")
    claimed = task.begin("a")

    with live.stream(log_of(task)) as stream:
        seen = [stream.next()]
        for sequence, text in enumerate(["one\n", "tw", "o\n"]):
            write(task, claimed, sequence, text)
            seen.append(stream.next())
        task.record(claimed)
        rest = stream.to_the_end()

    assert [shown([one]) for one in seen] == ["=\nold\n", "=\none\n", "tw", "o\n"]
    assert all(one.id == one.data["cursor"] for one in seen)
    assert rest == [Event("end", seen[-1].id, {"state": "SUCCESSFUL"})]
    plain = live.data(log_of(task))
    assert "".join(one.data["log"] for one in seen) == plain["log"]
    assert seen[-1].id == plain["cursor"]
    assert stream.response.headers["content-type"].startswith("text/event-stream")


def test_attempts_are_separated_as_in_the_plain_answer(live: LiveApi, task: StoredTask) -> None:
    with live.stream(log_of(task)) as stream:
        live.followed_by(1)
        attempt(task, "one")
        attempt(task)
        attempt(task, "three\n", verdict="FAILED")
        events = stream.to_the_end()

    assert "".join(one.data["log"] for one in events[:-1]) == live.data(log_of(task))["log"]
    assert shown(events) == "=\none\n=\n=\nthree\n"
    assert events[-1].data == {"state": "FAILED"}


def test_the_log_of_a_subtask_that_has_ended_ends_after_its_text(live: LiveApi, task: StoredTask) -> None:
    attempt(task, "all\n", verdict="FAILED")

    with live.stream(log_of(task)) as stream:
        events = stream.to_the_end()

    assert [one.name for one in events] == ["log", "end"]
    assert shown(events) == "=\nall\n"


def test_a_subtask_that_will_never_begin_is_not_waited_for(live: LiveApi, task: StoredTask) -> None:
    path = f"/instances/{task.id}/subtasks/{task.ids['b']}/log"
    with live.stream(path) as stream:
        live.followed_by(1)
        attempt(task, verdict="FAILED")
        events = stream.to_the_end()

    assert events == [Event("end", "", {"state": "PENDING"})]


def test_who_comes_back_with_the_cursor_misses_nothing_and_gets_nothing_twice(live: LiveApi, task: StoredTask) -> None:
    texts = [f"line {number}\n" for number in range(8)]
    claimed = task.begin("a")
    seen: list[Event] = []
    for sequence, text in enumerate(texts):
        write(task, claimed, sequence, text)
        header = {"last_event_id": seen[-1].id} if seen else {}
        with live.stream(f"{log_of(task)}?tail=1" if seen else log_of(task), **header) as stream:
            seen.append(stream.next())
    task.record(claimed)

    with live.stream(f"{log_of(task)}?after={seen[-1].id}") as stream:
        rest = stream.to_the_end()

    assert shown(seen) == "=\n" + "".join(texts)
    assert [one.name for one in rest] == ["end"]


def test_the_last_lines_are_followed_by_what_comes(live: LiveApi, task: StoredTask) -> None:
    claimed = task.begin("a")
    write(task, claimed, 0, "one\ntwo\nthree\n")

    with live.stream(f"{log_of(task)}?tail=1") as stream:
        first = stream.next()
        write(task, claimed, 1, "four\nfive\n")
        second = stream.next()

    assert [first.data["log"], second.data["log"]] == ["three\n", "four\nfive\n"]


def test_no_lines_of_the_past_still_give_a_cursor(live: LiveApi, task: StoredTask) -> None:
    claimed = task.begin("a")
    write(task, claimed, 0, "past\n")

    with live.stream(f"{log_of(task)}?tail=0") as stream:
        first = stream.next()

    assert first.data == {"log": "", "cursor": live.data(log_of(task))["cursor"]}


def test_one_attempt_can_be_followed_and_ends_with_it(live: LiveApi, task: StoredTask) -> None:
    attempt(task, "one\n")
    claimed = task.begin("a")

    with live.stream(f"{log_of(task)}?attempt=2") as stream:
        live.followed_by(1)
        write(task, claimed, 0, "two\n")
        first = stream.next()
        task.record(claimed, "RETRY", delay_seconds=3_600.0)
        rest = stream.to_the_end()

    assert shown([first]) == "=\ntwo\n"
    assert rest == [Event("end", first.id, {"state": "PENDING"})]


def test_a_long_log_comes_in_pieces(live: LiveApi, task: StoredTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_following, "_PIECE_BYTES", 25)
    attempt(task, *(f"line {number:04}\n" for number in range(20)), verdict="FAILED")

    with live.stream(log_of(task)) as stream:
        events = stream.to_the_end()

    assert len(events) > 5
    assert "".join(one.data["log"] for one in events[:-1]) == live.data(log_of(task))["log"]
    assert all("more" not in one.data for one in events)


@pytest.mark.parametrize("answer_bytes", [logs.ANSWER_BYTES, 60, 40])
def test_the_last_lines_come_in_pieces_as_well(
    live: LiveApi, task: StoredTask, monkeypatch: pytest.MonkeyPatch, answer_bytes: int
) -> None:
    monkeypatch.setattr(log_following, "_PIECE_BYTES", 25)
    monkeypatch.setattr(logs, "ANSWER_BYTES", answer_bytes)
    monkeypatch.setattr(logs, "_TAIL_BYTES", 4)
    monkeypatch.setattr(logs, "_TAIL_GROWTH", 2)
    attempt(task, "one\ntwo\nthr", "ee", "\n", "", "four\nfive, not ended")
    attempt(task)
    attempt(task, "s\u00edx\nseven\n\n\n", "eight\nnine", "\n", verdict="FAILED")

    for tail in (0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 20):
        with live.stream(f"{log_of(task)}?tail={tail}") as stream:
            *parts, end = stream.to_the_end()
        plain = live.data(log_of(task), tail=tail)

        assert "".join(one.data["log"] for one in parts) == plain["log"]
        assert (parts[-1].id, end.name) == (plain["cursor"], "end")
    assert len(parts) > 1


def test_any_text_is_one_event(live: LiveApi, task: StoredTask) -> None:
    text = "a\u2028b\u0085c\rd\x0be\x1cf\r\ng 漢字 ✓\n\nevent: end\n"
    attempt(task, text, verdict="FAILED")

    with live.stream(log_of(task)) as stream:
        events = stream.to_the_end()

    assert [one.name for one in events] == ["log", "end"]
    assert events[0].data["log"].endswith(text)


def test_following_outlives_an_outage_of_the_database(live: LiveApi, engine: Engine, task: StoredTask) -> None:
    claimed = task.begin("a")
    with live.stream(log_of(task)) as stream:
        live.followed_by(1)
        write(task, claimed, 0, "before\n")
        seen = [stream.next()]
        with away(engine, SERVER):
            write(task, claimed, 1, "meanwhile\n")
        task.record(claimed)
        seen += stream.to_the_end()

    assert shown(seen) == "=\nbefore\nmeanwhile\n"
    assert seen[-1].name == "end"


def test_what_is_wrong_is_answered_in_the_envelope_before_the_stream(live: LiveApi, task: StoredTask) -> None:
    other = make_task(task.engine, {"a": ()})
    with live.stream(f"/instances/{task.id}/subtasks/{other.ids['a']}/log") as stream:
        missing = stream.response
    with live.stream(log_of(task), last_event_id="latest") as stream:
        misspelt = stream.response
    with live.stream(log_of(task), authorization="") as stream:
        nobody = stream.response

    assert (missing.status_code, missing.json()["error"]["code"]) == (404, 20000)
    assert (misspelt.status_code, misspelt.json()["error"]["target"]) == (400, "Last-Event-ID")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, 30001)
    assert live.watch.followers == 0


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("application/json, text/event-stream", True),
        ("TEXT/Event-Stream;q=0.5, */*;q=0.1", True),
        ("application/json;q=0.5, text/event-stream; q=0.6", True),
        ("application/json", False),
        ("*/*", False),
        ("text/*", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=much", False),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream;q=0.5, */*", False),
    ],
)
def test_who_asks_for_events_gets_them_and_nobody_else(
    live: LiveApi, task: StoredTask, accept: str, *, streams: bool
) -> None:
    attempt(task, "all\n", verdict="FAILED")

    with live.stream(log_of(task), accept=accept) as stream:
        kind = stream.response.headers["content-type"]

    assert kind.startswith("text/event-stream" if streams else "application/json")


def test_a_client_that_goes_away_leaves_nothing_behind(live: LiveApi, task: StoredTask) -> None:
    with live.stream(log_of(task)):
        live.followed_by(1)

    live.followed_by(0)


def test_a_server_that_stops_ends_its_streams_and_does_not_call_it_the_end(live: LiveApi, task: StoredTask) -> None:
    with live.stream(log_of(task)) as stream:
        live.followed_by(1)
        live.stop()
        rest = stream.to_the_end()

    assert rest == []


def test_a_subtask_that_is_deleted_closes_the_stream(live: LiveApi, task: StoredTask) -> None:
    with live.stream(log_of(task)) as stream:
        live.followed_by(1)
        execute(task.engine, "DELETE FROM subtasks WHERE task_id = :id", id=task.id)
        rest = stream.to_the_end()

    assert rest == []


def test_many_who_follow_one_log_read_it_together(live: LiveApi, served: Engine, task: StoredTask) -> None:
    count, chunks = 40, 5
    claimed = task.begin("a")
    written = threading.Barrier(count + 1, timeout=15)

    def follow(_: int) -> str:
        seen = []
        with live.stream(log_of(task)) as stream:
            for _chunk in range(chunks):
                seen.append(stream.next())
                written.wait()
            seen += stream.to_the_end()
        return shown(seen)

    with ThreadPoolExecutor(count) as pool:
        logs = [pool.submit(follow, number) for number in range(count)]
        live.followed_by(count)
        with counted(served) as statements:
            for sequence in range(chunks):
                write(task, claimed, sequence, f"{sequence}\n")
                written.wait()
            task.record(claimed)
            texts = {one.result() for one in logs}

    assert texts == {"=\n0\n1\n2\n3\n4\n"}
    reads = [one for one in statements if "measured" in one]
    assert len(reads) <= 2 * (chunks + 1)


def test_who_knows_of_the_end_does_not_take_part_in_an_earlier_read(engine: Engine, task: StoredTask) -> None:
    claimed = task.begin("a")
    write(task, claimed, 0, "first\n")
    subtask, question = task.ids["a"], LogQuestion()
    first = subtask_log(engine, task.id, subtask, question, account="0")
    has_read, go_on = threading.Event(), threading.Event()

    def read(asked: LogQuestion) -> LogText:
        return subtask_log(engine, task.id, subtask, asked, account="0")

    def slow_read(asked: LogQuestion) -> LogText:
        text = read(asked)
        has_read.set()
        assert go_on.wait(15)
        return text

    async def follow(watch: Watch, reading: log_following.ReadLog) -> bytes:
        return b"".join([one async for one in followed_log(watch, subtask, reading, question, first)])

    async def both() -> bytes:
        watch = Watch(engine)
        slow = asyncio.create_task(follow(watch, slow_read))
        assert await asyncio.to_thread(has_read.wait, 15)
        await asyncio.to_thread(write, task, claimed, 1, "last\n")
        await asyncio.to_thread(task.record, claimed)
        try:
            quick = await asyncio.wait_for(follow(watch, read), 5)
        finally:
            go_on.set()
        assert await slow == quick
        await watch.stop()
        return quick

    sent = asyncio.run(both())

    assert b"last" in sent
    assert sent.index(b"last") < sent.index(b"event: end")
