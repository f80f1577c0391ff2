"""Servers are killed while somebody follows a log: nothing of it is lost, nothing comes twice."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskserver.client import TaskServer
from taskserver.dev_directory import DevDirectory
from tests.acceptance.stack import Running, running


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "data") as product:
        yield product


@pytest.fixture
def server(product: Running) -> Iterator[TaskServer]:
    dev = DevDirectory(product.directory)
    assert dev.url is not None
    assert dev.token is not None
    with TaskServer(dev.url, dev.token) as server:
        yield server


@pytest.mark.chaos
def test_a_followed_log_outlives_servers_that_are_killed(product: Running, server: TaskServer, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.mkdir()
    task = server.submit(subtasks=[{"key": "a", "kind": "probe.tell", "arguments": {"directory": str(words)}}])
    texts: list[str] = []
    told = threading.Condition()

    def follow() -> None:
        for text in task.subtask("a").follow_log():
            with told:
                texts.append(text)
                told.notify()

    def wait_for(line: str) -> None:
        with told:
            assert told.wait_for(lambda: line in "".join(texts), timeout=60), line

    follower = threading.Thread(target=follow)
    follower.start()
    (words / "first").touch()
    wait_for("first\n")
    for line in ("second", "third"):
        before = product.kill("server")
        (words / line).touch()
        product.restarted("server", before)
        wait_for(f"{line}\n")
    (words / "end").touch()
    follower.join(60)

    assert not follower.is_alive()
    assert "".join(texts) == task.subtask("a").log()
    assert "".join(texts).splitlines()[1:] == ["first", "second", "third", "end"]
