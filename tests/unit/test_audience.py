import os
from collections.abc import Iterator

import pytest

from schema.task_events import Event
from tests.eventually import eventually
from workers import audience as module
from workers.audience import Audience


class Broker:
    """Says how many hear a broadcast."""

    def __init__(self, heard: int) -> None:
        self.heard = heard
        self.asked = 0

    def send(self, events: "list[Event]") -> int:
        assert events == []  # asking tells nothing
        self.asked += 1
        if self.heard < 0:
            raise ConnectionError("away")
        return self.heard


@pytest.fixture
def audience(monkeypatch: pytest.MonkeyPatch) -> Iterator[Audience]:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    audience = Audience()
    yield audience
    audience.stop()


def test_nobody_listens_before_it_is_started_whoever_arrives(audience: Audience) -> None:
    audience.arrives()

    assert not audience.listens()


def test_it_is_told_at_once_of_who_arrives_and_finds_who_leaves(audience: Audience) -> None:
    broker = Broker(0)
    audience.start(broker.send)
    eventually(lambda: not audience.listens())

    broker.heard = 1
    audience.arrives()
    arrived = audience.listens()
    eventually(lambda asked=broker.asked: broker.asked > asked + 1)
    stays = audience.listens()
    broker.heard = 0

    eventually(lambda: not audience.listens())
    assert arrived
    assert stays


def test_an_outage_changes_nothing(audience: Audience) -> None:
    broker = Broker(2)
    audience.start(broker.send)

    broker.heard = -1
    eventually(lambda asked=broker.asked: broker.asked > asked + 2)

    assert audience.listens()


def test_a_process_that_was_forked_sees_it(audience: Audience) -> None:
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        eventually(audience.listens)
        os.write(write, b"heard")
        os._exit(0)

    audience.start(Broker(1).send)

    assert os.read(read, 10) == b"heard"
    assert os.waitpid(child, 0)[1] == 0
    os.close(read)
    os.close(write)
