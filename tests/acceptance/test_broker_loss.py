"""Redis forgets, dies, says everything twice, or talks nonsense: a message is only a hint, so every task settles."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schema.wire import DEFAULT_QUEUE
from tests.acceptance.stack import Document, Running, ledger, running, wait_for_runs
from tests.eventually import eventually

SLOTS = 2


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("broker"), concurrency=SLOTS) as product:
        yield product


def _diamonds(product: Running, directory: Path, *, count: int, seconds: float) -> list[int]:
    arguments = {"seconds": seconds, "ledger": str(directory)}
    graph: list[Document] = [
        {"key": "fork", "kind": "probe.span", "arguments": arguments},
        {"key": "part", "kind": "probe.span", "upstreams": ["fork"], "foreach": [0, 1, 2, 3], "arguments": arguments},
        {"key": "join", "kind": "probe.span", "upstreams": ["part"], "arguments": arguments},
    ]
    return product.submit_many([graph] * count)


_KEYS = ["fork", "join", *(f"part[{index}]" for index in range(4))]


def _assert_each_ran_once(product: Running, tasks: list[int], directory: Path) -> None:
    assert sorted((int(task), key) for task, key in ledger(directory)) == sorted(
        (task, key) for task in tasks for key in _KEYS
    )
    for task in tasks:
        assert sorted((one.key, one.outcome) for one in product.attempts(task)) == [
            (key, "SUCCESSFUL") for key in _KEYS
        ]


def _gated_chord(product: Running, directory: Path) -> int:
    """Submit a fork-join of which all but one branch have ended."""
    task = product.submit(
        [
            {"key": "quick", "kind": "probe.span", "foreach": [0, 1, 2], "arguments": {}},
            {"key": "gate", "kind": "probe.gate", "arguments": {"directory": str(directory)}},
            {"key": "join", "kind": "builtin.noop", "upstreams": ["quick", "gate"]},
            {"key": "end", "kind": "builtin.noop", "upstreams": ["join"]},
        ]
    )
    wait_for_runs(directory, 1)
    eventually(lambda: len(product.attempts(task)) == 3, what="the other branches have ended")
    return task


def test_when_redis_forgets_everything_what_was_queued_and_half_done_goes_on(product: Running, tmp_path: Path) -> None:
    chord = _gated_chord(product, tmp_path)
    queued = [
        product.submit([{"key": "n", "kind": "probe.span", "foreach": list(range(20)), "arguments": {"seconds": 0.02}}])
        for _ in range(8)
    ]
    eventually(lambda: product.redis.llen(DEFAULT_QUEUE) > SLOTS, what="messages are queued")

    product.redis.flushall()
    (tmp_path / "open").touch()

    product.assert_successful([chord, *queued])
    assert [one.outcome for one in product.attempts(chord)] == ["SUCCESSFUL"] * 6


def test_when_redis_is_killed_while_workers_are_busy_everything_settles(product: Running, tmp_path: Path) -> None:
    chord = _gated_chord(product, tmp_path)
    queued = _diamonds(product, tmp_path, count=20, seconds=0.02)

    before = product.kill("redis")
    (tmp_path / "open").touch()

    product.restarted("redis", before)
    product.assert_successful([chord, *queued])
    after = product.submit([{"key": "a", "kind": "builtin.noop"}])
    product.assert_successful([after], within=10)


@contextmanager
def _echo(product: Running) -> Iterator[set[bytes]]:
    """Put a copy of every message behind it that is seen while the block runs; yield the messages copied."""
    copied: set[bytes] = set()
    stopping = threading.Event()

    def copy() -> None:
        while not stopping.wait(0.002):
            for message in product.redis.lrange(DEFAULT_QUEUE, 0, -1):
                if message not in copied:
                    copied.add(message)
                    product.redis.lpush(DEFAULT_QUEUE, message)

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        yield copied
    finally:
        stopping.set()
        thread.join()


def test_messages_that_come_several_times_have_no_effect_but_one(product: Running, tmp_path: Path) -> None:
    with _echo(product) as copied:
        tasks = _diamonds(product, tmp_path, count=20, seconds=0.01)
        product.assert_successful(tasks)

    assert len(copied) >= len(tasks)
    _assert_each_ran_once(product, tasks, tmp_path)


def test_messages_that_come_when_all_is_over_change_nothing(product: Running, tmp_path: Path) -> None:
    with _echo(product) as copied:
        tasks = _diamonds(product, tmp_path, count=5, seconds=0.01)
        product.assert_successful(tasks)
    product.idle()
    before = product.rows("SELECT * FROM task_progress ORDER BY id")

    product.redis.lpush(DEFAULT_QUEUE, *copied)
    product.idle()

    assert product.rows("SELECT * FROM task_progress ORDER BY id") == before
    _assert_each_ran_once(product, tasks, tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        b"no JSON at all \xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b'{"body": "bm8ganNvbg==", "headers": {}, "properties": {}}',
    ],
)
def test_what_is_no_message_does_not_stop_the_worker(product: Running, raw: bytes) -> None:
    pid = product.pid("worker")

    product.redis.lpush(DEFAULT_QUEUE, raw)
    product.idle()

    product.assert_successful([product.submit([{"key": "a", "kind": "builtin.noop"}])])
    assert product.pid("worker") == pid


def test_a_message_with_a_broken_body_does_not_stop_the_worker(product: Running, tmp_path: Path) -> None:
    with _echo(product) as copied:
        product.assert_successful(_diamonds(product, tmp_path, count=4, seconds=0.01))
    pid = product.pid("worker")
    message = json.loads(copied.pop())

    for change in (
        {"body": "bm8ganNvbg=="},
        {"body": "!"},
        {"headers": {**message["headers"], "task": "taskserver.unknown"}},
        {"content-type": "application/x-python-serialize"},
        {"properties": {}},
    ):
        product.redis.lpush(DEFAULT_QUEUE, json.dumps({**message, **change}))
    product.idle()

    product.assert_successful([product.submit([{"key": "a", "kind": "builtin.noop"}])])
    assert product.pid("worker") == pid
