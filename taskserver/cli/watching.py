"""Following a task to its end: a live bar on a terminal, plain lines otherwise; always on standard error.

What a command answers is on standard output, so both can be redirected apart.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from schema.states import SubtaskState
from taskserver.cli.exits import Exit
from taskserver.cli.output import print_detail, print_json, print_status, progress_line
from taskserver.client import TaskServer, TaskStatus

_LINE_SECONDS = 1.0  # between plain lines, the last one aside


def follow(server: TaskServer, task: int) -> TaskStatus:
    """Show the task's progress until it is settled; return its last status."""
    last: TaskStatus | None = None
    with _display() as show:
        for last in server.changes(task):
            show(last)
    assert last is not None  # the first status comes always
    return last


def finish(server: TaskServer, status: TaskStatus, *, as_json: bool) -> Exit:
    """Print how the task ended, with what failed in it; return the exit code."""
    if as_json:
        print_json(server.detail(status.id).document)
    elif status.is_successful:
        print_status(status)
    else:
        detail = server.detail(status.id)
        failed = [one for one in detail.subtasks if one.status is SubtaskState.FAILED]
        print_detail(detail.model_copy(update={"subtasks": failed}))
    return Exit.OK if status.is_successful else Exit.FAILED


@contextmanager
def _display() -> Iterator[Callable[[TaskStatus], None]]:
    if not sys.stderr.isatty():
        yield _PlainLines().show
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("submitted", total=None)

        def show(status: TaskStatus) -> None:
            progress.update(
                bar,
                description=f"task {status.id} {status.state}",
                total=status.total,
                completed=status.count(SubtaskState.SUCCESSFUL),
            )

        yield show


class _PlainLines:
    """One line per change, at most one a second."""

    def __init__(self) -> None:
        self._shown_at = -_LINE_SECONDS

    def show(self, status: TaskStatus) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _LINE_SECONDS or status.is_settled:
            sys.stderr.write(f"task {status.id} {status.state} {progress_line(status)}\n")
            self._shown_at = now
