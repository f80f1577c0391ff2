"""What a handler's context asks when it wants to know whether to stop: the process' place in shared memory."""

import time

from workers.slots import Slot

_POLL_SECONDS = 0.05


class SlotCancellation:
    """The request to stop one attempt; set by the worker's main process (`workers.canceler`)."""

    def __init__(self, slot: Slot, claim: int, subtask: int) -> None:
        self._slot = slot
        self._claim = claim
        self._subtask = subtask

    def is_set(self) -> bool:
        """Tell whether the attempt is to stop."""
        return self._slot.is_asked_to_stop(self._claim, self._subtask)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the attempt is to stop; False when the time was up first."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _POLL_SECONDS if until is None else min(_POLL_SECONDS, until - time.monotonic())
            if left <= 0:
                return False
            time.sleep(left)
        return True
