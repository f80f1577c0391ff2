"""What overran is killed by the worker's main process, which needs no server for it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from workers.killer import Killer
from workers.slots import NEVER, Slots, _Field

_SECONDS = 10
_DEAD = 2**22 + 1  # beyond the largest pid


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


def _at_work(process: int, pid: int, *, kill_at: int) -> Slots:
    slots = Slots(1)
    slots[0].take_over(process=process, pid=pid)
    slots[0].hold(claim=12)
    slots[0].begin(subtask=5, kill_at=kill_at)
    return slots


@pytest.mark.parametrize("why", ["timeout", "grace"])
def test_what_overran_is_killed_and_its_neighbour_is_not(child: subprocess.Popen[bytes], why: str) -> None:
    slots = Slots(2)
    slots[0].take_over(process=3, pid=child.pid)
    slots[0].hold(claim=12)
    slots[0].begin(subtask=5, kill_at=1 if why == "timeout" else NEVER)
    slots[1].take_over(process=4, pid=os.getpid())
    slots[1].hold(claim=13)
    slots[1].begin(subtask=6, kill_at=NEVER)
    if why == "grace":
        slots[0].ask_to_stop(claim=12, subtask=5, by=1)
    killer = Killer(slots, grace_seconds=10)
    killer.start()

    assert child.wait(_SECONDS) == -signal.SIGKILL

    killer.stop()
    assert slots[0].read().was_killed
    assert not slots[1].read().was_killed


def test_who_was_asked_and_goes_on_is_interrupted_shortly_before_the_grace_is_over(
    child: subprocess.Popen[bytes],
) -> None:
    slots = _at_work(3, child.pid, kill_at=NEVER)
    killer = Killer(slots, grace_seconds=10)
    slots[0].ask_to_stop(claim=12, subtask=5, by=time.monotonic_ns() + int(9e9))
    killer.look()
    early = child.poll()
    slots[0].ask_to_stop(claim=12, subtask=6, by=time.monotonic_ns() + int(1e9))
    slots[0].begin(subtask=6, kill_at=NEVER)

    killer.look()

    assert early is None
    assert child.wait(_SECONDS) == -signal.SIGALRM
    assert not slots[0].read().was_killed


def test_who_gets_the_pid_of_a_killed_process_is_left_alone(child: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as overdue:
        slots = _at_work(3, overdue.pid, kill_at=1)
        killer = Killer(slots, grace_seconds=10)
        killer.look()
        assert overdue.wait(_SECONDS) == -signal.SIGKILL
    slots[0]._memory[_Field.PID] = child.pid

    killer.look()

    child.communicate(b"\n", timeout=_SECONDS)
    assert child.returncode == 0


def test_who_takes_the_place_of_a_killed_process_is_killed_when_it_overruns_too(child: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as first:
        slots = _at_work(3, first.pid, kill_at=1)
        killer = Killer(slots, grace_seconds=10)
        killer.look()
        assert first.wait(_SECONDS) == -signal.SIGKILL
    slots[0].take_over(process=4, pid=child.pid)
    slots[0].hold(claim=13)
    slots[0].begin(subtask=5, kill_at=1)

    killer.look()

    assert child.wait(_SECONDS) == -signal.SIGKILL


def test_a_process_that_died_by_itself_was_not_killed() -> None:
    slots = _at_work(3, _DEAD, kill_at=1)

    Killer(slots, grace_seconds=10).look()

    assert not slots[0].read().was_killed


def test_a_stopped_killer_has_ended() -> None:
    before = set(threading.enumerate())
    killer = Killer(Slots(1), grace_seconds=10)
    killer.start()

    killer.stop()

    assert set(threading.enumerate()) <= before
