"""How answers are printed: JSON for programs, tables for people; on standard output, and nothing else there."""

import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schema.states import SubtaskState, TaskState
from taskserver.client import TaskDetail, TaskStatus
from taskserver.client.answers import Subtask, TaskProgress

_STYLES: dict[str, str] = {
    TaskState.SUCCESSFUL: "green",
    TaskState.FAILED: "red",
    TaskState.REVOKED: "red",
    TaskState.RUNNING: "cyan",
    SubtaskState.CANCELING: "yellow",
    TaskState.SUSPENDED: "yellow",
}


def print_json(document: object) -> None:
    """Print a document as JSON, readable on a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(document, indent=indent, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns; no cell is cut where the output is no terminal."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(_cell(one) for one in row))
    console().print(table)


def print_status(status: TaskStatus) -> None:
    """Print a status in one line."""
    console().print(Text.assemble(f"task {status.id} ", _cell(status.state), f" {progress_line(status)}"))


def print_detail(detail: TaskDetail) -> None:
    """Print a task and its subtasks."""
    console().print(Text.assemble(f"task {detail.id} ", _cell(detail.state), f" {detail.name} ({detail.task_id})"))
    rows = [(one.id, one.key, one.kind or "", one.status, one.attempt, _remark(one)) for one in detail.subtasks]
    print_table(("ID", "KEY", "KIND", "STATE", "ATTEMPT", ""), rows)


def progress_line(status: TaskProgress) -> str:
    """Return the counts in words: what ended well of all, and what else there is."""
    counts = {state: status.count(state) for state in SubtaskState}
    done = f"{counts.pop(SubtaskState.SUCCESSFUL)}/{status.total} successful"
    return ", ".join([done, *(f"{count} {state.lower()}" for state, count in counts.items() if count)])


def console() -> Console:
    """Return standard output; wide where it is no terminal, so that nothing is cut for a program."""
    return Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 500, highlight=False)


def _cell(value: object) -> Text:
    text = "" if value is None else str(value)
    return Text(text, style=_STYLES.get(text, ""))


def _remark(subtask: Subtask) -> str:
    if subtask.error is not None:
        return subtask.error.message or subtask.error.type or ""
    return "" if subtask.wait_reason is None else subtask.wait_reason.detail
