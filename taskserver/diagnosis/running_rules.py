"""What is wrong with subtasks that have begun: they do not stop, run far too long, fill the task, or nobody runs them.

Pure: each rule judges the facts and yields what it finds.
"""

from collections.abc import Iterator, Sequence

from schema.states import SubtaskState
from taskserver.diagnosis.facts import Begun, Facts
from taskserver.diagnosis.finding import SHOWN, Finding, Severity, named, span
from taskserver.diagnosis.thresholds import (
    FULL_FACTOR,
    FULL_SECONDS,
    KILL_SLACK_SECONDS,
    OVERLONG_FACTOR,
    OVERLONG_SECONDS,
)


def does_not_stop(facts: Facts) -> Iterator[Finding]:
    """Name what was asked to stop and has not, although its grace has passed."""
    limit = facts.waits.cancel_grace_seconds + KILL_SLACK_SECONDS
    stubborn = [one for one in facts.stored.begun if one.held and (one.asked_seconds or 0.0) > limit]
    if not stubborn:
        return
    first = max(stubborn, key=lambda one: one.asked_seconds or 0.0)
    yield Finding(
        "canceling",
        Severity.ERROR,
        f"{_named(stubborn, first)} of task {facts.stored.course.id} was asked to stop {span(first.asked_seconds or 0.0)}"
        f" ago and still runs in {first.executor}, past the grace of {span(facts.waits.cancel_grace_seconds)}",
        f"kill that process ({first.executor}, host and pid), or restart its worker: what it held ends as cancelled",
        _ids(stubborn),
        len(stubborn),
    )


def lost_worker(facts: Facts) -> Iterator[Finding]:
    """Name what runs in the records only: no worker has named its claim for longer than a rescue takes."""
    lost = [one for one in facts.stored.begun if not one.held]
    if not lost:
        return
    yield Finding(
        "worker_lost",
        Severity.ERROR,
        f"{_named(lost, lost[0])} of task {facts.stored.course.id} began {span(lost[0].seconds)} ago in"
        f" {lost[0].executor}, which is gone, and no server has brought it back",
        "look whether a `taskserver server` runs, and what it logs with action=rescue",
        _ids(lost),
        len(lost),
    )


def runs_too_long(facts: Facts) -> Iterator[Finding]:
    """Name what runs far longer than its kind does, and that nothing will end."""
    overlong = [one for one in facts.stored.begun if _is_overlong(one)]
    if not overlong:
        return
    task, first = facts.stored.course.id, overlong[0]
    yield Finding(
        "overlong",
        Severity.WARNING,
        f"{_named(overlong, first)} of task {task} has run for {span(first.seconds)} in {first.executor};"
        f" {first.kind} typically takes {first.typical_seconds:.3g} s, and it has no timeout",
        f"look at `taskserver log {task} {first.key!r}`; `taskserver cancel {task} {first.key!r}` ends it, and a retry"
        " runs it again; give the kind a timeout",
        _ids(overlong),
        len(overlong),
    )


def _is_overlong(begun: Begun) -> bool:
    if begun.timeout is not None or begun.typical_seconds is None or begun.state is not SubtaskState.RUNNING:
        return False
    return begun.held and begun.seconds > max(OVERLONG_SECONDS, OVERLONG_FACTOR * begun.typical_seconds)


def fills_the_task(facts: Facts) -> Iterator[Finding]:
    """Name what takes up the task's concurrency, where all of it has run for long."""
    stored, progress = facts.stored, facts.stored.course.progress
    if progress.concurrency is None or progress.room != 0 or not progress.startable or not progress.open:
        return
    if progress.ready or not stored.begun or not all(map(_runs_long, stored.begun)):
        return
    first, task = stored.begun[0], stored.course.id
    yield Finding(
        "limit",
        Severity.WARNING,
        f"{progress.startable} of task {task} wait because its concurrency of {progress.concurrency} is taken:"
        f" {_named(stored.begun, first)} has run for {span(first.seconds)} in {first.executor}",
        f"wait for it, or end it: `taskserver cancel {task} {first.key!r}`; submit with a higher concurrency next time",
        _ids(stored.begun),
        progress.begun,
    )


def _runs_long(begun: Begun) -> bool:
    return begun.seconds > max(FULL_SECONDS, FULL_FACTOR * (begun.typical_seconds or 0.0))


def _named(some: Sequence[Begun], first: Begun) -> str:
    return named(first.key, first.id, len(some))


def _ids(some: Sequence[Begun]) -> list[int]:
    return [one.id for one in some[:SHOWN]]
