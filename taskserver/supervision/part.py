"""What a supervised part is: a name, a command, and how to tell that it works. Values only; nothing here runs anything."""

import hashlib
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schema.errors import Invalid, Unavailable


class PartDidNotStart(Unavailable):
    """A part ended, or did not answer, before it was ready for the first time."""


class PartRefused(Invalid):
    """A part ended at its first start and said that what it was told is wrong: starting it again would not help."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a part that died is started again."""

    first_seconds: float = 0.1
    cap_seconds: float = 30.0
    forget_after_seconds: float = 10.0  # a part that lived so long starts again at `first_seconds`

    def delay(self, deaths: int, chance: float | None = None) -> float:
        """Double with each death in a row up to the cap; jitter takes up to half of it away.

        `chance` is between 0 and 1, random unless given.
        """
        longest = min(self.cap_seconds, self.first_seconds * 2.0 ** min(deaths - 1, 30))
        return longest * (0.5 + 0.5 * (random.random() if chance is None else chance))  # noqa: S311 (no secret)


def _nothing() -> None:
    pass


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A child process to be kept alive.

    `is_ready` and `prepare` run in the supervisor's thread and hold up its other parts: they must answer within a second
    or two. `prepare` runs before each start. A part that is `adoptable` may be taken over from a killed supervisor when
    it was started by the same command and is ready; any other orphan is ended.
    """

    name: str
    argv: tuple[str, ...]
    log_file: Path
    env: Mapping[str, str] | None = None  # the whole environment; None means ours
    cwd: Path | None = None
    is_ready: Callable[[], bool] = _always
    prepare: Callable[[], None] = _nothing
    ready_seconds: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 10.0
    adoptable: bool = False
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def fingerprint(self) -> str:
        """Tell commands apart, so that a part of an older version is not taken over."""
        return hashlib.sha256("\0".join(self.argv).encode()).hexdigest()[:16]
