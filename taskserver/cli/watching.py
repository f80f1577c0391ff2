"""Following a task to its end: a live bar on a terminal, plain lines otherwise; always on standard error.

What a command answers is on standard output, so both can be redirected apart. A signal ends the waiting only: the task is
the server's and goes on.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from schema.states import SubtaskState
from taskserver.cli.exits import Exit, Interrupted
from taskserver.cli.output import print_detail, print_json, print_status, progress_line
from taskserver.cli.stalling import stall_told
from taskserver.client import Task, TaskStatus

_LINE_SECONDS = 1.0  # between plain lines, the last one aside


def follow(task: Task, *, as_json: bool) -> TaskStatus:
    """Show the task's progress until it is settled; return its last status.

    Args:
        task: What to wait for.
        as_json: Whether `finish` prints JSON; else it prints the last line of a success, which is then not shown here, too.

    Raises:
        Interrupted: SIGINT or SIGTERM came first.

    """
    with _interruptible(task.id), _display(says_success=as_json) as (show, tell), stall_told(task, tell) as moved:

        def note(status: TaskStatus) -> None:
            moved(status)
            show(status)

        return task.wait(on_progress=note)


def finish(task: Task, status: TaskStatus, *, as_json: bool) -> Exit:
    """Print how the task ended, with what failed in it; return the exit code."""
    if as_json:
        print_json(task.detail().document)
    elif status.is_successful:
        print_status(status)
    else:
        detail = task.detail()
        print_detail(detail, subtasks=[one for one in detail.subtasks if one.status is SubtaskState.FAILED])
    return Exit.OK if status.is_successful else Exit.FAILED


@contextmanager
def _interruptible(task: int) -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(
            f"no longer waiting for task {task}, which goes on: `taskserver status {task} --watch` waits again",
            number,
            target=str(task),
        )

    # What was ignored stays ignored: a shell starts what runs in the background without SIGINT.
    numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _display(*, says_success: bool) -> Iterator[tuple[Callable[[TaskStatus], None], Callable[[str], None]]]:
    """Yield what shows a status and what writes a line among them."""
    if not sys.stderr.isatty():
        plain = _PlainLines(says_success=says_success)
        yield plain.show, plain.tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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
            failed = status.count(SubtaskState.FAILED)
            progress.update(
                bar,
                description=f"task {status.id} {status.state}" + (f", {failed} failed" if failed else ""),
                total=status.total,
                completed=status.count(SubtaskState.SUCCESSFUL),
                refresh=True,  # drawn now, also where the machine is too busy for the thread that draws
            )

        def tell(line: str) -> None:
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield show, tell


class _PlainLines:
    """One line per change, at most one a second."""

    def __init__(self, *, says_success: bool) -> None:
        self._says_success = says_success
        self._shown_at = -_LINE_SECONDS

    def tell(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")

    def show(self, status: TaskStatus) -> None:
        if status.is_successful and not self._says_success:
            return  # the outcome is the same line
        now = time.monotonic()
        if now - self._shown_at >= _LINE_SECONDS or status.is_settled:
            sys.stderr.write(f"task {status.id} {status.state} {progress_line(status)}\n")
            self._shown_at = now
