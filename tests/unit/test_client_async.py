"""The client for programs that await: the same calls, which suspend; and what threads and event loops may share."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import pytest

from taskserver.client import AsyncTask, AsyncTaskServer, NotFound, TaskServer, TaskStatus, TaskTimeout
from tests.scripted_server import (
    ScriptedServer,
    after,
    data,
    detail,
    error,
    events,
    lost,
    scripted_server,
    status,
    subtask,
    together,
)


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


def test_a_task_is_submitted_waited_for_and_asked_about(scripted: ScriptedServer) -> None:
    scripted.answers(
        lost,
        data(detail(), status=201),
        data(status()),
        data(status("SUCCESSFUL")),
        data(detail("SUCCESSFUL")),
        data({"contents": [{"name": "builtin.noop"}]}),
    )

    async def ask() -> None:
        async with AsyncTaskServer(scripted.url, "t") as server:
            task = await server.submit(name="x", idempotency_key="k")
            settled = await task.wait(timeout=60)
            found = await task.detail()
            kinds = await server.kinds()
        assert isinstance(task, AsyncTask)
        assert settled.is_successful
        assert found.state == settled.state
        assert [one.name for one in kinds] == ["builtin.noop"]

    asyncio.run(ask())

    assert [one.headers.get("idempotency-key") for one in scripted.asked[:3]] == ["k", "k", None]


def test_calls_of_one_loop_wait_side_by_side(scripted: ScriptedServer) -> None:
    both = threading.Barrier(2)
    scripted.answers(together(both, data(status())), together(both, data(status())))

    async def ask() -> list[TaskStatus]:
        async with AsyncTaskServer(scripted.url, "t") as server:
            return list(await asyncio.gather(server.task(7).status(), server.task(7).status()))

    assert len(asyncio.run(ask())) == 2


def test_progress_may_be_awaited(scripted: ScriptedServer) -> None:
    scripted.answers(data(status(), ETag='"1"'), data(status("FAILED", change=2)))
    told: list[int] = []

    async def tell(status: TaskStatus) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(status.change_number)

    async def ask() -> None:
        async with AsyncTaskServer(scripted.url, "t") as server:
            await server.task(7).wait(on_progress=tell)

    asyncio.run(ask())

    assert told == [1, 2]


def test_changes_and_logs_are_iterated_over(scripted: ScriptedServer) -> None:
    scripted.answers(
        data(status(), ETag='"1"'),
        data(status("FAILED", change=2)),
        data({"contents": [subtask("mount[0]")]}),
        events([("one\n", "4.0")], ending="break"),
        events([("two\n", "4.1")]),
    )

    async def ask() -> tuple[list[str], list[str]]:
        async with AsyncTaskServer(scripted.url, "t") as server:
            task = server.task(7)
            states = [one.state.value async for one in task.changes()]
            return states, [text async for text in task.subtask("mount[0]").follow_log()]

    assert asyncio.run(ask()) == (["RUNNING", "FAILED"], ["one\n", "two\n"])


def test_errors_are_the_same(scripted: ScriptedServer) -> None:
    scripted.answers(error(404, 20000, "no task 7"), data(status()))

    async def ask() -> None:
        async with AsyncTaskServer(scripted.url, "t") as server:
            with pytest.raises(NotFound):
                await server.task(7).subtask(1).retry()
            with pytest.raises(TaskTimeout):
                await server.task(7).wait(timeout=0)

    asyncio.run(ask())


def test_a_cancelled_wait_ends_at_once(scripted: ScriptedServer) -> None:
    never = threading.Event()
    scripted.answers(data(status()), after(never, lost))

    async def ask() -> bool:
        async with AsyncTaskServer(scripted.url, "t") as server:
            with anyio.move_on_after(0.2) as scope:
                await server.task(7).wait()
            return scope.cancelled_caught

    is_cancelled = asyncio.run(ask())

    never.set()
    assert is_cancelled


def test_a_followed_log_that_is_left_lets_its_connection_go(scripted: ScriptedServer) -> None:
    scripted.answers(events([("one\n", "4.0")], ending="hold"))

    async def ask() -> None:
        async with AsyncTaskServer(scripted.url, "t") as server:
            with anyio.move_on_after(0.2):
                async for _ in server.task(7).subtask(70).follow_log():
                    await anyio.sleep_forever()

    asyncio.run(ask())

    assert scripted.gone.wait(10)


def test_threads_may_share_a_blocking_client(scripted: ScriptedServer) -> None:
    threads = 8
    all_ = threading.Barrier(threads)
    scripted.answers(*[together(all_, data({"contents": [subtask()]}))] * threads, *[data(subtask())] * threads)

    with TaskServer(scripted.url, "t") as server, ThreadPoolExecutor(threads) as pool:
        a = server.task(7).subtask("a")
        found = list(pool.map(lambda _: a.detail(), range(threads)))

    assert [one.key for one in found] == ["a"] * threads


def test_a_blocking_client_works_beside_a_running_loop(scripted: ScriptedServer) -> None:
    scripted.answers(lost, data(status()), events([("one\n", "4.0")], ending="hold"))

    async def ask() -> str:
        with TaskServer(scripted.url, "t") as server:
            task = server.task(7)
            assert task.status().id == 7
            return next(iter(task.subtask(70).follow_log()))

    assert asyncio.run(ask()) == "one\n"


def test_a_coroutine_given_to_a_blocking_client_is_refused_with_a_cure(scripted: ScriptedServer) -> None:
    scripted.answers(data(status()))

    async def tell(_: TaskStatus) -> None:
        await asyncio.sleep(1)

    async def ask() -> None:
        with TaskServer(scripted.url, "t") as server, pytest.raises(RuntimeError, match="use AsyncTaskServer"):
            server.task(7).wait(on_progress=tell)

    asyncio.run(ask())
