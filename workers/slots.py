"""What each pool process is doing, in memory shared with the worker's main process.

The main process reads it for its beat, and to end a process that overran: code that holds the interpreter cannot speak
for itself. A process that takes over a dead one's place finds there what the dead one held. Every field is one aligned
64-bit number, written by the process that owns the place and read by the main process, or the other way round.
"""

import mmap
import os
import time
from dataclasses import dataclass
from enum import IntEnum


class _Field(IntEnum):
    PROCESS = 0  # process number; 0 = the place is free
    PID = 1
    TASK = 2
    CARRIER = 3
    CLAIM = 4
    BEGUN = 5  # the subtask of the claim that a handler took up last
    KILL_AT = 6  # monotonic nanoseconds after which the main process ends this one; 0 = no handler is at work
    STARTED = 7  # units begun since the worker started
    KILLED = 8  # the process that the main process ended because it overran
    KILLED_AT = 9  # the subtask that overran then
    STOP = 10  # the subtask that is asked to stop
    STOP_UNDER = 11  # the claim under which it is: the same subtask may run here again, and is not asked then
    STOP_BY = 12  # monotonic nanoseconds after which the main process ends the one that was asked and goes on
    STOPPING = 13  # a claim of which something is to stop


NEVER = 2**63 - 1
_BYTES = 8 * len(_Field)
_HELD = tuple(field for field in _Field if field is not _Field.STARTED)


@dataclass(frozen=True, slots=True)
class Held:
    """What a process held when it was read; 0 stands for nothing."""

    process: int
    pid: int
    task: int
    carrier: int
    claim: int
    begun: int
    kill_at: int
    killed: int
    killed_at: int
    stop: int
    stop_under: int
    stop_by: int
    stopping: int

    @property
    def is_alive(self) -> bool:
        """Tell whether the process is there; who may not be asked is a stranger who got its pid."""
        if not self.process:
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    @property
    def was_killed(self) -> bool:
        """Tell whether the main process ended it because what it had taken up overran.

        Between the look and the kill it may have gone on to another subtask, which is innocent.
        """
        return bool(self.process) and self.killed == self.process and self.killed_at == self.begun

    @property
    def overran(self) -> bool:
        """Tell whether a handler is at work past the time by which it had to end, or was asked to."""
        if not self.begun or not self.kill_at:
            return False
        return time.monotonic_ns() > (min(self.kill_at, self.stop_by) if self._is_asked else self.kill_at)

    def is_stubborn(self, left_nanoseconds: int) -> bool:
        """Tell whether a handler is at work that was asked to stop, and has no more than so long left for it."""
        is_at_work = bool(self.begun and self.kill_at)
        return is_at_work and self._is_asked and time.monotonic_ns() > self.stop_by - left_nanoseconds

    @property
    def _is_asked(self) -> bool:
        return self.stop == self.begun and self.stop_under == self.claim


class Slot:
    """One pool process' place."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def read(self) -> Held:
        """Return what the place says now."""
        return Held(*(self._memory[field] for field in _HELD))

    @property
    def started(self) -> int:
        """Count the units begun here since the worker started, by whichever process."""
        return self._memory[_Field.STARTED]

    def take_over(self, process: int, pid: int) -> Held | None:
        """Make the place this process' own; return what a dead process left in it, if it held a claim."""
        before = self.read()
        self.end_unit()
        self._memory[_Field.PID] = pid
        self._memory[_Field.PROCESS] = process
        return before if before.claim else None

    def begin_unit(self, task: int, carrier: int) -> None:
        """Say which unit this process works on."""
        self._memory[_Field.TASK] = task
        self._memory[_Field.CARRIER] = carrier
        self._memory[_Field.STARTED] += 1

    def hold(self, claim: int) -> None:
        """Say which claim it holds; nothing of it has begun."""
        self._memory[_Field.BEGUN] = 0
        self._memory[_Field.CLAIM] = claim

    def begin(self, subtask: int, kill_at: int) -> None:
        """Say which subtask a handler works on, and when it must have ended (`NEVER` = any time)."""
        self._memory[_Field.KILL_AT] = kill_at
        self._memory[_Field.BEGUN] = subtask

    def end(self) -> None:
        """Say that no handler is at work; what it did is not recorded yet."""
        self._memory[_Field.KILL_AT] = 0

    def note_kill(self, process: int, subtask: int) -> None:
        """Say, in the main process, that this one is being ended because the subtask overran."""
        self._memory[_Field.KILLED_AT] = subtask
        self._memory[_Field.KILLED] = process

    def ask_to_stop(self, claim: int, subtask: int, by: int) -> None:
        """Ask, in the main process, the handler that works on the subtask under the claim to stop by then."""
        if not self.is_asked_to_stop(claim, subtask):
            self._memory[_Field.STOP] = 0  # or the old subtask would be asked under the new claim for a moment
            self._memory[_Field.STOP_BY] = by
            self._memory[_Field.STOP_UNDER] = claim
            self._memory[_Field.STOP] = subtask

    def is_asked_to_stop(self, claim: int, subtask: int) -> bool:
        """Tell whether the handler that works on the subtask under the claim is to stop."""
        return self._memory[_Field.STOP] == subtask and self._memory[_Field.STOP_UNDER] == claim

    def note_stopping(self, claim: int) -> None:
        """Say, in the main process, that something of the claim is to stop; 0 when there is nothing."""
        self._memory[_Field.STOPPING] = claim

    def is_stopping(self, claim: int) -> bool:
        """Tell whether something of the claim is to stop, which may not have begun."""
        return self._memory[_Field.STOPPING] == claim

    def end_unit(self) -> None:
        """Say that the process holds nothing."""
        self.end()
        self._memory[_Field.BEGUN] = 0
        self._memory[_Field.CLAIM] = 0
        self._memory[_Field.CARRIER] = 0
        self._memory[_Field.TASK] = 0


class Slots:
    """The places of all pool processes; made before the pool forks."""

    def __init__(self, count: int) -> None:
        self._memory = memoryview(mmap.mmap(-1, count * _BYTES)).cast("q")
        fields = len(_Field)
        self._slots = tuple(Slot(self._memory[i * fields : (i + 1) * fields]) for i in range(count))

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]
