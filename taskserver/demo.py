"""The demo: take stock of the Python distributions on this machine, by the product itself, over its own HTTP API.

The handlers are `workers.handlers.inventory`; here is what submits the job, shows it live and tells the outcome.
"""

import importlib.metadata
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from schema.settings import Settings
from schema.states import SubtaskState
from taskserver.client import Task, TaskDetail, TaskServer
from taskserver.development import Development, DevelopmentOptions
from taskserver.supervision.supervisor import interrupted_by_signals

HANDLERS = "workers.handlers.inventory"
STEPS = ("discover", "measure", "merge", "compare", "report")
_SHOWN_NAMES = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the job ended."""

    task: TaskDetail
    document: Mapping[str, Any]

    @property
    def is_successful(self) -> bool:
        """Whether the task is SUCCESSFUL."""
        return self.task.is_successful


def run_demo(settings: Settings, directory: Path, *, extra_paths: Sequence[Path] = ()) -> Outcome | None:
    """Open the stack in the directory, run the job, stop everything; None when a signal ended it before."""
    options = DevelopmentOptions(directory=directory, port=0, handlers=(HANDLERS,))
    with interrupted_by_signals():
        _say("starting PostgreSQL, Redis, a server and a worker")
        with Development(settings, options) as running, TaskServer(running.url, running.token) as server:
            submitted = server.submit(submission(directory.resolve() / "report", extra_paths))
            _say(f"task {submitted.id} submitted to {running.url}")
            _follow(submitted)
            task = submitted.detail()
            _say("stopping")
        return Outcome(task, _document(task))
    return None


def submission(report_directory: Path, extra_paths: Sequence[Path]) -> dict[str, Any]:
    """Return the job: discover, then measure each in parallel, merge, compare, report."""
    paths = _search_paths(extra_paths)
    directory, everywhere, each = {"$arg": "/directory"}, {"$arg": "/paths"}, {"$arg": "/distributions"}
    measured, inventory = {"$from": "measure"}, {"$from": "merge"}
    return {
        "name": f"Inventory of the Python distributions on {socket.gethostname()}",
        "arguments": {"paths": paths, "distributions": _names(paths), "directory": str(report_directory)},
        "subtasks": [
            _step("discover", (), {"paths": everywhere, "expected": each}),
            {**_step("measure", ("discover",), {"distribution": {"$item": ""}, "paths": everywhere}), "foreach": each},
            _step("merge", ("measure",), {"measured": measured}),
            _step("compare", ("merge",), {"inventory": inventory, "directory": directory}),
            _step(
                "report",
                ("compare",),
                {
                    "measured": measured,
                    "inventory": inventory,
                    "changes": {"$from": "compare"},
                    "directory": directory,
                },
            ),
        ],
    }


def print_outcome(outcome: Outcome) -> None:
    """Print what was found, what changed, and where the report is; or what failed."""
    console = Console(soft_wrap=True, highlight=False)
    task, found = outcome.task, outcome.document
    console.print(f"task {task.id} {task.state}", style="green" if task.is_successful else "red")
    if not task.is_successful:
        for one in task.subtasks:
            if one.error is not None:
                console.print(f"  {one.key}: {one.error.in_words}", markup=False)
        return
    console.print(f"distributions {found['distributions']:,}, files {found['files']:,}, bytes {found['bytes']:,}")
    for line in _change_lines(found["changes"]):
        console.print(line, markup=False)
    console.print(f"report: {found['page']}", markup=False)


def _step(key: str, upstreams: Iterable[str], arguments: Mapping[str, object]) -> dict[str, Any]:
    return {"key": key, "kind": f"inventory.{key}", "upstreams": list(upstreams), "arguments": dict(arguments)}


def _search_paths(extra_paths: Sequence[Path]) -> list[str]:
    candidates = [*(Path(entry) for entry in sys.path if entry), *extra_paths]
    return list(dict.fromkeys(str(one.resolve()) for one in candidates if one.is_dir()))


def _names(paths: list[str]) -> list[str]:
    given = (one.metadata["Name"] for one in importlib.metadata.distributions(path=paths))
    return sorted({re.sub(r"[-_.]+", "-", name).lower() for name in given if name})


def _document(task: TaskDetail) -> dict[str, Any]:
    """Return the outcome as a document; what a step did not come to is absent."""
    results = {one.key: one.result for one in task.subtasks if one.result is not None}
    inventory, written = results.get("merge"), results.get("report")
    document: dict[str, Any] = {"task": task.id, "state": task.state}
    if inventory is not None:
        document |= {
            "distributions": len(inventory["entries"]),
            "files": inventory["files"],
            "bytes": inventory["bytes"],
            "changes": results.get("compare"),
        }
    return document | (written or {})


def _change_lines(changes: Mapping[str, Any]) -> Iterator[str]:
    if changes["since"] is None:
        yield "this is the first inventory; run the demo again to see what changed since"
        return
    changed = [f"{one['name']} ({one['before']} → {one['after']})" for one in changes["changed"]]
    groups = {"added": changes["added"], "removed": changes["removed"], "changed": changed}
    counts = ", ".join(f"{len(names)} {what}" for what, names in groups.items())
    yield f"since {changes['since']}: {counts}"
    for what, names in groups.items():
        for name in names[:_SHOWN_NAMES]:
            yield f"  {what}: {name}"
        if len(names) > _SHOWN_NAMES:
            yield f"  … and {len(names) - _SHOWN_NAMES} more {what}"


def _follow(task: Task) -> None:
    with _display(task.detail()) as show:
        for _ in task.changes():
            show(task.detail())


@contextmanager
def _display(task: TaskDetail) -> Iterator[Callable[[TaskDetail], None]]:
    """Show a bar for each step on a terminal, a line for each step that ended otherwise; on standard error."""
    if not sys.stderr.isatty():
        ended: set[str] = set()

        def show_lines(detail: TaskDetail) -> None:
            for step, (done, total) in _steps(detail).items():
                if done == total and step not in ended:
                    ended.add(step)
                    _say(f"{step} {done}/{total}")

        yield show_lines
        return
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars = {step: progress.add_task(step, total=total) for step, (_, total) in _steps(task).items()}

        def show_bars(detail: TaskDetail) -> None:
            for step, (done, _) in _steps(detail).items():
                progress.update(bars[step], completed=done)

        yield show_bars


def _steps(detail: TaskDetail) -> dict[str, tuple[int, int]]:
    """Return for each step how many of its subtasks have ended well, and how many there are."""
    states: dict[str, list[SubtaskState]] = {step: [] for step in STEPS}
    for one in detail.subtasks:
        states[one.key.partition("[")[0]].append(one.status)
    return {step: (all_.count(SubtaskState.SUCCESSFUL), len(all_)) for step, all_ in states.items()}


def _say(what: str) -> None:
    sys.stderr.write(what + "\n")
    sys.stderr.flush()
