"""Waiting for what has no event to wait on: the one polling helper."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_PAUSE_SECONDS = 0.01


def eventually(question: Callable[[], _T], *, within: float = 15.0, what: str = "") -> _T:
    """Ask until the answer is true, and return it; fail with the last answer when the time is up."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s: {what or question}; the last answer was {answer!r}")
        pause.wait(_PAUSE_SECONDS)
