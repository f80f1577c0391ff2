"""What a handler's context asks when it wants to know whether to stop."""

import threading
import time

import pytest

from workers.cancellation import SlotCancellation
from workers.context import Context
from workers.failures import Cancelled
from workers.slots import NEVER, Slots

CLAIM, SUBTASK = 12, 5


def test_it_is_set_by_a_request_for_this_attempt() -> None:
    slot = Slots(1)[0]
    cancellation = SlotCancellation(slot, CLAIM, SUBTASK)

    assert not cancellation.is_set()
    slot.ask_to_stop(CLAIM, SUBTASK, by=NEVER)
    assert cancellation.is_set()


@pytest.mark.parametrize(("claim", "subtask"), [(CLAIM + 1, SUBTASK), (CLAIM, SUBTASK + 1)])
def test_a_request_for_another_attempt_does_not_set_it(claim: int, subtask: int) -> None:
    slot = Slots(1)[0]

    slot.ask_to_stop(claim, subtask, by=NEVER)

    assert not SlotCancellation(slot, CLAIM, SUBTASK).is_set()


def test_who_waits_is_told_when_the_request_comes() -> None:
    slot = Slots(1)[0]
    asking = threading.Timer(0.01, slot.ask_to_stop, (CLAIM, SUBTASK, NEVER))
    began = time.monotonic()

    asking.start()
    told = SlotCancellation(slot, CLAIM, SUBTASK).wait(30)

    asking.join()
    assert told
    assert time.monotonic() - began < 5


def test_who_waits_for_nothing_is_let_go_when_the_time_is_up() -> None:
    began = time.monotonic()

    assert not SlotCancellation(Slots(1)[0], CLAIM, SUBTASK).wait(0.12)

    assert 0.12 <= time.monotonic() - began < 5


def test_a_handler_that_waits_is_stopped_by_it() -> None:
    slot = Slots(1)[0]
    context = Context(cancellation=SlotCancellation(slot, CLAIM, SUBTASK))
    asking = threading.Timer(0.01, slot.ask_to_stop, (CLAIM, SUBTASK, NEVER))

    asking.start()
    with pytest.raises(Cancelled):
        context.wait(30)

    asking.join()
    assert context.cancelled
