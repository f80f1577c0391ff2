"""Telling somebody who waits for a task why nothing happens, once, on standard error.

A task that waits for a worker that nobody has started would else be waited for in silence. The server is asked beside the
waiting, in a thread, because the waiting itself is one held call.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

from schema.errors import TaskserverError
from schema.states import SubtaskState
from taskserver.cli.output import as_one_line
from taskserver.client import Task, TaskDetail, TaskStatus

_STALL_SECONDS = 5.0
_MAX_SUBTASKS = 1000  # of more the detail is too long to be read for one line of it


@contextmanager
def stall_told(task: Task, tell: Callable[[str], object]) -> Iterator[Callable[[TaskStatus], None]]:
    """Call `tell` with one line once the task has not moved for a while; yields what each status is to be given to."""
    stall = _Stall(task, tell)
    thread = threading.Thread(target=stall.watch, name="stall", daemon=True)
    thread.start()
    try:
        yield stall.moved
    finally:
        stall.ended.set()
        thread.join()  # it uses a connection that is closed after us


class _Stall:
    def __init__(self, task: Task, tell: Callable[[str], object]) -> None:
        self.ended = threading.Event()
        self._task = task
        self._tell = tell
        self._status: TaskStatus | None = None
        self._moved_at = time.monotonic()

    def moved(self, status: TaskStatus) -> None:
        self._status, self._moved_at = status, time.monotonic()

    def watch(self) -> None:
        while not self.ended.wait(max(0.0, self._moved_at + _STALL_SECONDS - time.monotonic())):
            if time.monotonic() - self._moved_at < _STALL_SECONDS:
                continue
            status = self._status
            if status is not None and not _runs(status):
                self._explain(status)
                return
            self._moved_at = time.monotonic()  # something runs: that is no stall, however long it takes

    def _explain(self, status: TaskStatus) -> None:
        try:
            reason = _reason(self._task.detail()) if status.total <= _MAX_SUBTASKS else ""
        except TaskserverError:
            return  # the waiting meets the same error, and it is the one to report it
        if not self.ended.is_set():
            told = f"task {status.id} has not moved for {_STALL_SECONDS:g} s{reason}"
            self._tell(f"{told}; `taskserver doctor {status.id}` says more")


def _runs(status: TaskStatus) -> bool:
    return bool(status.count(SubtaskState.RUNNING) or status.count(SubtaskState.CANCELING))


def _reason(detail: TaskDetail) -> str:
    """Return why a subtask waits: one that waits for something else than another subtask, if there is one."""
    waiting = [(one.key, one.wait_reason) for one in detail.subtasks if one.wait_reason is not None]
    causes = (one for one in waiting if one[1].type != "upstream")
    for key, reason in chain(causes, waiting):
        return as_one_line(f": subtask {key!r} waits: {reason.detail or reason.type}")
    return ""
