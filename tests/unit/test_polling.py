"""The poll that all who follow share, with a question that the test answers."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping

import pytest

from schema.errors import Unavailable
from taskserver.api.polling import Poll, SharedReads

SECONDS = 10


class Source:
    """What is asked about; a question can be held in the middle."""

    def __init__(self) -> None:
        self.values: dict[str, int | None] = {}
        self.asked: list[set[str]] = []
        self.is_away, self.refusals, self.refused = False, 0, threading.Event()
        self.read, self.answer = threading.Event(), threading.Event()
        self.answer.set()

    def ask(self, keys: Collection[str], _known: Mapping[str, int | None]) -> Mapping[str, int | None]:
        self.asked.append(set(keys))
        if self.is_away:
            self.refusals += 1
            if self.refusals > 1:
                self.refused.set()
            raise Unavailable("away")
        values = {key: self.values.get(key) for key in keys}
        self.read.set()
        assert self.answer.wait(SECONDS)
        return values


@pytest.fixture
def source() -> Source:
    return Source()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    asyncio.run(bounded())


async def happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, SECONDS)


def test_who_follows_is_given_the_newest_answer_only(source: Source) -> None:
    async def test() -> None:
        poll = Poll(source.ask, seconds=0.001)
        source.values["a"] = 1
        with poll.following(["a"]) as following:
            first = await following.other_than("a", None)
            source.values["a"] = 2
            source.values["a"] = 3
            second = await following.other_than("a", first)
        await poll.stop()

        assert (first, second) == (1, 3)

    run(test)


def test_who_joins_is_not_given_what_was_read_before(source: Source) -> None:
    async def test() -> None:
        poll = Poll(source.ask, seconds=3_600)
        source.values["a"] = 1
        source.answer.clear()
        with poll.following(["a"]) as early:
            await happened(source.read)
            source.values["a"] = 2
            with poll.following(["a"]) as late:
                source.answer.set()
                given = await late.other_than("a", None)
                assert await early.other_than("a", None) == 2
        await poll.stop()

        assert given == 2

    run(test)


def test_who_joins_later_is_told_what_others_know_already(source: Source) -> None:
    async def test() -> None:
        poll = Poll(source.ask, seconds=3_600)
        source.values["a"] = 1
        with poll.following(["a"]) as early:
            await early.other_than("a", None)
            with poll.following(["a"]) as late:
                assert await late.other_than("a", None) == 1
        await poll.stop()

    run(test)


def test_what_is_gone_is_told_as_such(source: Source) -> None:
    async def test() -> None:
        poll = Poll(source.ask, seconds=0.001)
        source.values["a"] = 1
        with poll.following(["a"]) as following:
            seen = await following.other_than("a", None)
            del source.values["a"]
            assert await following.other_than("a", seen) is None
            assert not following.stopped
        await poll.stop()

    run(test)


def test_what_is_gone_from_the_first_is_told_as_such(source: Source) -> None:
    async def test() -> None:
        poll = Poll(source.ask, seconds=3_600)
        with poll.following(["a"]) as following:
            assert await following.other_than("a", None) is None
            assert not following.stopped
        await poll.stop()

    run(test)


def test_an_outage_is_waited_for(source: Source) -> None:
    async def test() -> None:
        poll = Poll(source.ask, seconds=0.001)
        source.values["a"] = 1
        source.is_away = True
        with poll.following(["a"]) as following:
            await happened(source.refused)
            source.is_away = False
            assert await following.other_than("a", None) == 1
        await poll.stop()

    run(test)


def test_nothing_is_asked_when_nobody_follows(source: Source) -> None:
    async def test() -> None:
        poll = Poll(source.ask, seconds=3_600)
        source.values |= {"a": 1, "b": 1}
        with poll.following(["a"]) as following:
            await following.other_than("a", None)
            with poll.following(["b"]) as other:
                await other.other_than("b", None)
        poll.ask_soon("a")
        poll.ask_soon()
        with poll.following(["b"]) as other:
            await other.other_than("b", None)
        await poll.stop()

        assert source.asked == [{"a"}, {"a", "b"}, {"b"}]
        assert poll.followers == 0

    run(test)


def test_who_follows_is_let_go_when_the_server_ends(source: Source) -> None:
    async def test() -> None:
        poll = Poll(source.ask, seconds=3_600)
        with poll.following(["a"]) as early:
            waiting = asyncio.create_task(early.until(lambda _: False))
            await happened(source.read)
            poll.stop_following()
            await waiting
            with poll.following(["a"]) as late:
                await late.until(lambda _: False)
        await poll.stop()

        assert early.stopped
        assert late.stopped

    run(test)


def test_the_same_read_is_made_once_and_outlives_who_began_it() -> None:
    async def test() -> None:
        begun, go = threading.Event(), threading.Event()
        reads = SharedReads(at_once=2)
        made: list[int] = []

        def read() -> int:
            made.append(1)
            begun.set()
            assert go.wait(SECONDS)
            return 7

        async def ask(key: str) -> int:
            return await reads.read(key, read)

        impatient, patient = asyncio.create_task(ask("k")), asyncio.create_task(ask("k"))
        await happened(begun)
        impatient.cancel()
        go.set()

        assert await patient == 7
        assert made == [1]
        assert await ask("k") == 7
        assert made == [1, 1]

    run(test)
