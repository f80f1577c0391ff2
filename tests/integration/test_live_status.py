"""The changes of a task as a stream of events, from a real server over a socket."""

import asyncio
import threading
import time

import httpx
import pytest
from httpx_sse import EventSource
from sqlalchemy import Engine

from taskserver.api import event_stream
from taskserver.principals import Role, Tokens, create_principal
from tests.api_client import PREFIX, SECRET_KEY
from tests.eventually import eventually
from tests.factories import StoredTask, execute, make_task
from tests.integration.test_queries_statements import counted
from tests.live import SERVER, Event, LiveApi, away


@pytest.fixture
def task(engine: Engine) -> StoredTask:
    return make_task(engine, {"a": (), "b": ("a",)})


def events_of(task: StoredTask) -> str:
    return f"/instances/{task.id}/events"


def test_the_status_comes_at_once_and_again_at_each_change_until_the_end(live: LiveApi, task: StoredTask) -> None:
    known = live.data(f"/instances/{task.id}/status")

    with live.stream(events_of(task)) as stream:
        first = stream.next()
        task.release("a")
        second = stream.next()
        task.record(task.claim("a"))
        task.run("b")
        rest = stream.to_the_end()

    assert first == Event("status", str(known["changeNumber"]), known)
    assert second.data["progress"]["READY"] == 1
    assert [one.name for one in rest[-2:]] == ["status", "end"]
    assert rest[-2].data == live.data(f"/instances/{task.id}/status")
    assert rest[-1].data == {"state": "SUCCESSFUL"}
    assert {"text/event-stream; charset=utf-8"} == {stream.response.headers["content-type"]}
    assert stream.response.headers["cache-control"] == "no-cache"
    assert stream.response.headers["x-accel-buffering"] == "no"


def test_a_burst_of_changes_gives_few_events_and_the_last_of_them(live: LiveApi, engine: Engine) -> None:
    keys = [f"k{number}" for number in range(100)]
    task = make_task(engine, dict.fromkeys(keys, ()))

    began = time.monotonic()
    with live.stream(events_of(task)) as stream:
        seen = [stream.next()]
        for key in keys:
            task.release(key)
        while seen[-1].data["progress"]["READY"] < len(keys):
            seen.append(stream.next())
    took = time.monotonic() - began

    assert len(seen) <= 2 + took / 0.1
    assert seen[-1].data == live.data(f"/instances/{task.id}/status")
    numbers = [int(one.id) for one in seen]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("header", ["last-event-id", "if-none-match"])
def test_who_knows_the_status_is_told_the_next(live: LiveApi, task: StoredTask, header: str) -> None:
    number = live.data(f"/instances/{task.id}/status")["changeNumber"]
    known = f'"{number}"' if header == "if-none-match" else str(number)

    with live.stream(events_of(task), **{header: known}) as stream:
        live.followed_by(1)
        task.release("a")
        event = stream.next()

    assert int(event.id) > number
    assert event.data["progress"]["READY"] == 1


def test_who_knows_an_older_status_is_told_at_once(live: LiveApi, task: StoredTask) -> None:
    number = live.data(f"/instances/{task.id}/status")["changeNumber"]
    task.release("a")

    with live.stream(events_of(task), last_event_id=str(number)) as stream:
        event = stream.next()

    assert event.data["progress"]["READY"] == 1


def test_who_knows_the_settled_status_is_told_that_it_is_the_end(live: LiveApi, task: StoredTask) -> None:
    task.run("a", verdict="FAILED")
    number = live.data(f"/instances/{task.id}/status")["changeNumber"]

    with live.stream(events_of(task), last_event_id=str(number)) as stream:
        events = stream.to_the_end()

    assert events == [Event("end", "", {"state": "FAILED"})]


def test_what_is_wrong_is_answered_in_the_envelope_before_the_stream(live: LiveApi, task: StoredTask) -> None:
    with live.stream("/instances/999999/events") as stream:
        missing = stream.response
    with live.stream(events_of(task), authorization="Bearer nobody") as stream:
        nobody = stream.response
    with live.stream(events_of(task), last_event_id="latest") as stream:
        misspelt = stream.response
    with live.stream(f"{events_of(task)}?until=settled") as stream:
        unknown = stream.response

    assert (missing.status_code, missing.json()["error"]["code"]) == (404, 20000)
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, 30001)
    assert (misspelt.status_code, misspelt.json()["error"]["target"]) == (400, "Last-Event-ID")
    assert (unknown.status_code, unknown.json()["error"]["subErrors"][0]["field"]) == (400, "until")
    assert live.watch.followers == 0


def test_another_accounts_task_does_not_exist(live: LiveApi, engine: Engine, task: StoredTask) -> None:
    row = create_principal(engine, name="other", role=Role.ADMIN, account="9")
    token = Tokens(SECRET_KEY).token(row.name, row.serial)

    with live.stream(events_of(task), authorization=f"Bearer {token}") as stream:
        status = stream.response.status_code

    assert status == 404


def test_a_client_that_goes_away_leaves_nothing_behind(live: LiveApi, served: Engine, task: StoredTask) -> None:
    with live.stream(events_of(task)) as stream:
        stream.next()
        live.followed_by(1)

    live.followed_by(0)
    eventually(lambda: served.pool.checkedout() == 0, what="no connection is in use")  # type: ignore[attr-defined]


def test_a_server_that_stops_ends_its_streams_and_does_not_call_it_the_end(live: LiveApi, task: StoredTask) -> None:
    with live.stream(events_of(task)) as stream:
        stream.next()
        live.followed_by(1)
        began = time.monotonic()
        live.stop()
        rest = stream.to_the_end()

    assert rest == []
    assert time.monotonic() - began < 3  # uvicorn would wait for five seconds


def test_a_stream_outlives_an_outage_of_the_database(
    live: LiveApi, engine: Engine, task: StoredTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_KEEP_ALIVE_SECONDS", 0.05)
    with live.stream(events_of(task)) as stream:
        lines = stream.response.iter_lines()
        assert next(lines) == "event: status"
        with away(engine, SERVER):
            task.release("a")
            assert all(line != "event: status" for line in (next(lines) for _ in range(5)))
        while next(lines) != "event: status":
            pass
        data = next(lines)

    assert '"READY":1' in data


def test_a_stream_shows_that_it_is_alive(live: LiveApi, task: StoredTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_KEEP_ALIVE_SECONDS", 0.05)

    with live.stream(events_of(task)) as stream:
        lines = stream.response.iter_lines()
        seen = [next(lines) for _ in range(6)]

    assert seen[4:] == [": keep-alive", ": keep-alive"]


def test_who_may_not_read_any_more_is_cut_off(
    live: LiveApi, engine: Engine, task: StoredTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_KEEP_ALIVE_SECONDS", 0.05)
    row = create_principal(engine, name="leaver", role=Role.TASK_VIEWER, account="0")
    token = Tokens(SECRET_KEY).token(row.name, row.serial)

    with live.stream(events_of(task), authorization=f"Bearer {token}") as stream:
        stream.next()
        assert live.http.delete(f"{PREFIX}/principals/leaver").status_code == 200
        rest = stream.to_the_end()

    assert rest == []
    live.followed_by(0)


def test_a_task_that_is_deleted_closes_the_stream(live: LiveApi, engine: Engine, task: StoredTask) -> None:
    with live.stream(events_of(task)) as stream:
        stream.next()
        execute(engine, "DELETE FROM tasks WHERE id = :id", id=task.id)
        rest = stream.to_the_end()

    assert rest == []


def test_a_hundred_streams_cost_the_database_what_one_does(live: LiveApi, served: Engine, engine: Engine) -> None:
    tasks = [make_task(engine, {"a": (), "b": ("a",)}) for _ in range(20)]

    async def follow(client: httpx.AsyncClient, task: StoredTask) -> list[str]:
        async with client.stream("GET", PREFIX + events_of(task)) as response:
            return [one.data async for one in EventSource(response).aiter_sse() if one.event == "end"]

    async def follow_all() -> list[list[str]]:
        limits = httpx.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {live.token}"}
        async with httpx.AsyncClient(base_url=live.url, headers=headers, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(follow(client, task) for task in tasks for _ in range(5)))

    ends: list[list[str]] = []
    followers = threading.Thread(target=lambda: ends.extend(asyncio.run(follow_all())))
    followers.start()
    live.followed_by(100)
    began = time.monotonic()
    with counted(served) as statements:
        for task in tasks:
            task.run("a")
        for task in tasks:
            task.run("b")
        followers.join(30)
    took = time.monotonic() - began

    assert ends == [['{"state":"SUCCESSFUL"}']] * 100
    # A poll each 75 ms, and one at once for each task that settles: not one for each of a hundred followers.
    assert len(statements) <= took / 0.075 + len(tasks) + 10
