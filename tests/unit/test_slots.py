"""What pool processes tell their main process through shared memory."""

import os

import pytest

from workers.slots import NEVER, Slots


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_writes_and_its_parent_reads() -> None:
    slots = Slots(2)

    child = os.fork()
    if child == 0:
        slots[1].take_over(process=7, pid=os.getpid())
        slots[1].begin_unit(task=3, carrier=99)
        slots[1].hold(claim=12)
        slots[1].begin(subtask=5, kill_at=0)
        os._exit(0)
    os.waitpid(child, 0)

    held = slots[1].read()
    assert (held.process, held.pid, held.task, held.carrier, held.claim, held.begun) == (7, child, 3, 99, 12, 5)
    assert slots[0].read().process == 0


def test_who_takes_a_dead_ones_place_finds_what_it_held() -> None:
    slot = Slots(1)[0]
    slot.take_over(process=1, pid=10)
    slot.begin_unit(task=3, carrier=99)
    slot.hold(claim=12)

    left = slot.take_over(process=2, pid=11)

    assert left is not None
    assert (left.process, left.claim, left.begun) == (1, 12, 0)
    assert slot.read().claim == 0
    assert slot.started == 1


def test_a_place_left_in_order_leaves_nothing() -> None:
    slot = Slots(1)[0]
    slot.take_over(process=1, pid=10)
    slot.begin_unit(task=3, carrier=99)
    slot.hold(claim=12)
    slot.end_unit()

    assert slot.take_over(process=2, pid=11) is None


def test_a_handler_past_its_time_has_overrun() -> None:
    slot = Slots(1)[0]
    slot.take_over(process=1, pid=10)

    slot.begin(subtask=5, kill_at=1)
    assert slot.read().overran

    slot.end()
    assert not slot.read().overran


def test_what_was_taken_up_is_known_until_it_is_recorded() -> None:
    slot = Slots(1)[0]
    slot.take_over(process=1, pid=10)
    slot.begin_unit(task=3, carrier=99)
    slot.hold(claim=12)
    slot.begin(subtask=5, kill_at=0)

    slot.end()
    assert slot.read().begun == 5

    slot.hold(claim=13)
    assert slot.read().begun == 0


def test_only_a_process_that_was_killed_for_it_has_timed_out() -> None:
    slot = Slots(1)[0]
    slot.take_over(process=1, pid=10)
    slot.begin_unit(task=3, carrier=99)
    slot.hold(claim=12)
    slot.begin(subtask=5, kill_at=1)

    assert not slot.read().was_killed
    slot.note_kill(process=1, subtask=5)
    left = slot.take_over(process=2, pid=11)

    assert left is not None
    assert left.was_killed
    assert not slot.read().was_killed


def test_what_a_killed_process_had_gone_on_to_has_not_overrun() -> None:
    slot = Slots(1)[0]
    slot.take_over(process=1, pid=10)
    slot.begin_unit(task=3, carrier=99)
    slot.hold(claim=12)
    slot.begin(subtask=5, kill_at=1)

    slot.begin(subtask=6, kill_at=NEVER)
    slot.note_kill(process=1, subtask=5)

    assert not slot.read().was_killed


def test_a_request_to_stop_is_for_one_claim() -> None:
    slot = Slots(1)[0]
    slot.take_over(process=1, pid=10)
    slot.hold(claim=12)
    slot.begin(subtask=5, kill_at=NEVER)

    slot.ask_to_stop(claim=12, subtask=5, by=1)

    assert slot.is_asked_to_stop(12, 5)
    assert slot.read().overran
    slot.hold(claim=13)
    slot.begin(subtask=5, kill_at=NEVER)
    assert not slot.is_asked_to_stop(13, 5)
    assert not slot.read().overran


def test_the_first_request_sets_the_grace() -> None:
    slot = Slots(1)[0]
    slot.take_over(process=1, pid=10)
    slot.hold(claim=12)
    slot.begin(subtask=5, kill_at=NEVER)

    slot.ask_to_stop(claim=12, subtask=5, by=1)
    slot.ask_to_stop(claim=12, subtask=5, by=NEVER)

    assert slot.read().overran
