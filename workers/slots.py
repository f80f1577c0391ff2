"""What each pool process is doing, in memory shared with the worker's main process.

The main process reads it for its beat, and to end a process that overran: code that holds the interpreter cannot speak
for itself. A process that takes over a dead one's place finds there what the dead one held. Every field is one aligned
64-bit number, written by the process that owns the place and read by the main process.
"""

import mmap
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
    KILL_AT = 6  # monotonic nanoseconds after which the main process ends this one
    STARTED = 7  # units begun since the worker started
    KILLED = 8  # the process that the main process ended because it overran


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

    @property
    def was_killed(self) -> bool:
        """Tell whether the main process ended it because it overran."""
        return bool(self.process) and self.killed == self.process

    @property
    def overran(self) -> bool:
        """Tell whether a handler is at work past the time by which it had to end."""
        return bool(self.begun and self.kill_at and time.monotonic_ns() > self.kill_at)


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
        """Say which subtask a handler works on, and when it must have ended (0 = never)."""
        self._memory[_Field.KILL_AT] = kill_at
        self._memory[_Field.BEGUN] = subtask

    def end(self) -> None:
        """Say that no handler is at work; what it did is not recorded yet."""
        self._memory[_Field.KILL_AT] = 0

    def note_kill(self, process: int) -> None:
        """Say, in the main process, that this one is being ended because it overran."""
        self._memory[_Field.KILLED] = process

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
