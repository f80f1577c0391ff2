"""How answers are printed: JSON for programs, tables for people; on standard output, and nothing else there.

On a terminal tables are aligned and coloured. Elsewhere a row is a line and its cells are parted by tabs, whole and without
colour, so that `cut` and `awk` find them where they were yesterday. rich is imported only for a terminal: it is slow to
import, and cron has none.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from schema.states import SubtaskState, TaskState
from taskserver.client.answers import Subtask, TaskDetail, TaskProgress, TaskStatus

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_SHORT = 80  # characters of a value in a table; `--json` has all of it
_STYLES: dict[str, str] = {
    TaskState.SUCCESSFUL: "green",
    TaskState.FAILED: "red",
    TaskState.REVOKED: "red",
    TaskState.RUNNING: "cyan",
    SubtaskState.CANCELING: "yellow",
    TaskState.SUSPENDED: "yellow",
    TaskState.ROLLED_BACK: "yellow",
}


def print_json(document: object) -> None:
    """Print a document as JSON, readable on a terminal."""
    sys.stdout.write(in_json(document, indent=2 if sys.stdout.isatty() else None) + "\n")


def in_json(value: object, *, indent: int | None = None) -> str:
    """Return the value as JSON that standard output can take."""
    escaped = sys.stdout.encoding.lower() != "utf-8"  # cron's locale may be any
    return json.dumps(value, indent=indent, ensure_ascii=escaped)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns."""
    if not sys.stdout.isatty():
        sys.stdout.writelines("\t".join(map(_plain, row)) + "\n" for row in (columns, *rows))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in {"ID", "STATE"})
    for row in rows:
        table.add_row(*map(_styled, row))
    console().print(table)


def print_line(*words: object) -> None:
    """Print words in one line, states in their colours on a terminal; empty ones are left out."""
    shown = [word for word in words if word not in (None, "")]
    if not sys.stdout.isatty():
        sys.stdout.write(" ".join(map(_plain, shown)) + "\n")
        return
    from rich.text import Text

    console().print(Text(" ").join(map(_styled, shown)))


def print_status(status: TaskStatus) -> None:
    """Print a status in one line."""
    print_line("task", status.id, status.state, progress_line(status))


def print_detail(detail: TaskDetail, *, subtasks: Sequence[Subtask] | None = None) -> None:
    """Print a task and its subtasks, or those of them that are given."""
    print_line("task", detail.id, detail.state, detail.name, f"({detail.task_id})")
    if detail.arguments:
        print_line("arguments", _short(detail.arguments))
    shown = detail.subtasks if subtasks is None else subtasks
    rows = [(one.id, one.key, one.kind, one.status, one.attempt, _remark(one), _short(one.result)) for one in shown]
    print_table(("ID", "KEY", "KIND", "STATE", "ATTEMPT", "REMARK", "RESULT"), rows)


def progress_line(status: TaskProgress) -> str:
    """Return the counts in words: what ended well of all, and what else there is."""
    counts = {state: status.count(state) for state in SubtaskState}
    done = f"{counts.pop(SubtaskState.SUCCESSFUL)}/{status.total} successful"
    return ", ".join([done, *(f"{count} {state.lower()}" for state, count in counts.items() if count)])


def console() -> "Console":
    """Return standard output; wide where it is no terminal, so that nothing is cut for a program."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 500, highlight=False)


def as_one_line(text: str) -> str:
    """Return the text as one line of what can be seen: a name must not draw on the terminal, nor make two cells of one."""
    return text if text.isprintable() else " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _plain(value: object) -> str:
    return "" if value is None else as_one_line(str(value))


def _short(value: object) -> str:
    text = "" if value is None else in_json(value)
    cut = "…" if sys.stdout.encoding.lower() == "utf-8" else "..."
    return text if len(text) <= _SHORT else text[: _SHORT - len(cut)] + cut


def _styled(value: object) -> "Text":
    from rich.text import Text

    text = _plain(value)
    return Text(text, style=_STYLES.get(text, ""))


def _remark(subtask: Subtask) -> str:
    if subtask.error is not None:
        return subtask.error.in_words
    return "" if subtask.wait_reason is None else subtask.wait_reason.detail
