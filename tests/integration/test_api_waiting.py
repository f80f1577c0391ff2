"""Waiting for a task: who waits is woken by a change and by the end, and holds nothing meanwhile."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from taskserver.api import waiting
from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, make_task

LONG = 30


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(30) as pool:
        yield pool


@pytest.fixture
def task(engine: Engine) -> StoredTask:
    return make_task(engine, {"a": (), "b": ("a",)})


def until(condition: Any) -> None:
    """Poll what nothing announces, up to a deadline."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def waiters(api: ApiClient) -> int:
    return int(api.app.state.services.watch.followers)


def waiting_for(api: ApiClient, pool: ThreadPoolExecutor, path: str, **headers: str) -> "Future[httpx.Response]":
    """Begin to wait, and return once the application has registered it and looked."""
    before = waiters(api)
    future = pool.submit(api.get, path, headers=headers)
    until(lambda: waiters(api) > before or future.done())
    return future


def test_the_change_number_is_the_etag(api: ApiClient, task: StoredTask) -> None:
    first = api.get(f"/instances/{task.id}/status")
    number = first.json()["data"]["changeNumber"]

    assert first.headers["etag"] == f'"{number}"'
    for known in (f'"{number}"', f'W/"{number}"', f'"x", "{number}"', "*"):
        same = api.get(f"/instances/{task.id}/status", headers={"if-none-match": known})
        assert (same.status_code, same.content) == (304, b"")
    task.release("a")
    changed = api.get(f"/instances/{task.id}/status", headers={"if-none-match": f'"{number}"'})
    assert changed.status_code == 200
    assert changed.json()["data"]["changeNumber"] > number


def test_several_tasks_have_one_etag(api: ApiClient, engine: Engine, task: StoredTask) -> None:
    other = make_task(engine, {"a": ()})
    path = f"/instances/status?ids={other.id}&ids={task.id},{task.id},99999999999999999"
    first = api.get(path)

    assert [one["id"] for one in first.json()["data"]["contents"]] == [other.id, task.id]
    assert first.json()["data"]["missing"] == [99999999999999999]
    etag = first.headers["etag"]
    assert api.get(path, headers={"if-none-match": etag}).status_code == 304
    other.release("a")
    assert api.get(path, headers={"if-none-match": etag}).status_code == 200


@pytest.mark.parametrize("ids", ["", "a", "1,,2", ",".join(str(number) for number in range(1, 1_002))])
def test_ids_that_cannot_be_are_refused(api: ApiClient, ids: str) -> None:
    assert api.error(f"/instances/status?ids={ids}", 400)["code"] == 10001


def test_who_waits_is_woken_by_the_next_change(api: ApiClient, pool: ThreadPoolExecutor, task: StoredTask) -> None:
    future = waiting_for(api, pool, f"/instances/{task.id}/status?waitSeconds={LONG}")
    assert not future.done()

    task.release("a")

    assert future.result(10).json()["data"]["progress"]["READY"] == 1


def test_who_knows_an_older_state_does_not_wait(api: ApiClient, task: StoredTask) -> None:
    number = api.data(f"/instances/{task.id}/status")["changeNumber"]
    task.release("a")

    began = time.monotonic()
    response = api.get(f"/instances/{task.id}/status?waitSeconds={LONG}", headers={"if-none-match": f'"{number}"'})

    assert response.status_code == 200
    assert time.monotonic() - began < LONG / 2


def test_who_waits_for_the_end_sleeps_through_changes(
    api: ApiClient, pool: ThreadPoolExecutor, task: StoredTask
) -> None:
    future = waiting_for(api, pool, f"/instances/{task.id}/status?waitSeconds={LONG}&until=settled")
    change = waiting_for(api, pool, f"/instances/{task.id}/status?waitSeconds={LONG}")
    task.run("a")
    change.result(10)
    assert not future.done()

    task.run("b")

    assert future.result(10).json()["data"]["state"] == "SUCCESSFUL"


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 3_600)


@pytest.mark.usefixtures("no_polling")
def test_the_end_is_told_by_notification_alone(api: ApiClient, pool: ThreadPoolExecutor, task: StoredTask) -> None:
    task.run("a")
    future = waiting_for(api, pool, f"/instances/{task.id}/status?waitSeconds={LONG}&until=settled")
    until(lambda: is_listening(task.engine))

    task.run("b")

    assert future.result(10).json()["data"]["state"] == "SUCCESSFUL"


def is_listening(engine: Engine) -> bool:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'taskserver-listener' AND query LIKE 'LISTEN%' AND state = 'idle'"
    )
    with engine.connect() as connection:
        return bool(connection.execute(query).scalar_one())


def test_a_lost_listener_does_not_lose_the_end(api: ApiClient, pool: ThreadPoolExecutor, task: StoredTask) -> None:
    task.run("a")
    future = waiting_for(api, pool, f"/instances/{task.id}/status?waitSeconds={LONG}&until=settled")
    until(lambda: is_listening(task.engine))
    with task.engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'taskserver-listener' AND datname = current_database()"
            )
        )

    task.run("b")

    assert future.result(10).json()["data"]["state"] == "SUCCESSFUL"


def test_the_answer_comes_when_the_time_is_over(api: ApiClient, task: StoredTask) -> None:
    plain = api.get(f"/instances/{task.id}/status?waitSeconds=0.05")
    known = api.get(f"/instances/{task.id}/status?waitSeconds=0.05", headers={"if-none-match": plain.headers["etag"]})

    assert (plain.status_code, known.status_code) == (200, 304)
    assert waiters(api) == 0


def test_waiting_for_several_ends_when_all_have_settled(
    api: ApiClient, pool: ThreadPoolExecutor, engine: Engine, task: StoredTask
) -> None:
    other = make_task(engine, {"a": ()})
    future = waiting_for(api, pool, f"/instances/status?ids={task.id},{other.id}&waitSeconds={LONG}&until=settled")
    other.run("a")
    task.run("a")
    assert not future.done()

    task.run("b", verdict="FAILED")

    states = [one["state"] for one in future.result(10).json()["data"]["contents"]]
    assert states == ["FAILED", "SUCCESSFUL"]


def test_waiters_share_one_poll_and_hold_no_connection(
    api: ApiClient, pool: ThreadPoolExecutor, engine: Engine, task: StoredTask
) -> None:
    """More wait than the pool has connections; the calls beside them are served."""
    futures = [
        waiting_for(api, pool, f"/instances/{task.id}/status?waitSeconds={LONG}&until=settled") for _ in range(25)
    ]
    assert waiters(api) == 25
    assert engine.pool.size() < 25  # type: ignore[attr-defined]
    assert api.data(f"/instances/{task.id}")["id"] == task.id

    task.run("a")
    task.run("b")

    assert {future.result(10).json()["data"]["state"] for future in futures} == {"SUCCESSFUL"}


def test_a_server_that_stops_lets_its_waiters_go(api: ApiClient, pool: ThreadPoolExecutor, task: StoredTask) -> None:
    future = waiting_for(api, pool, f"/instances/{task.id}/status?waitSeconds={LONG}")

    api.in_loop(api.app.state.services.watch.stop_waiting)

    assert future.result(10).json()["data"]["state"] == "CREATED"
    assert api.get(f"/instances/{task.id}/status?waitSeconds={LONG}").status_code == 200
