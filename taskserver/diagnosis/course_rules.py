"""Why a task does not move by its own course: paused, failed, late, waiting for its start, its instance or a signal.

Pure: each rule judges the facts and yields what it finds.
"""

from collections.abc import Iterator

from schema.states import TaskState
from taskserver.diagnosis.facts import Facts, Failed
from taskserver.diagnosis.finding import Finding, Severity, counted, named, span
from taskserver.projection import wire_time


def paused(facts: Facts) -> Iterator[Finding]:
    """Name who paused the task."""
    course = facts.stored.course
    if course.state is not TaskState.SUSPENDED:
        return
    pause = course.pause
    by = "" if pause is None else f" by {pause.principal!r} {span(pause.seconds)} ago"
    why = "" if pause is None or pause.reason is None else f" ({pause.reason})"
    waiting = counted(course.progress.pending)
    yield Finding(
        "paused",
        Severity.ERROR,
        f"task {course.id} was paused{by}{why}: {waiting} will not begin",
        f"let it go on: `taskserver resume {course.id}`",
    )


def failed(facts: Facts) -> Iterator[Finding]:
    """Name the failed subtasks that hold the task, and what can be done about them."""
    stored, course = facts.stored, facts.stored.course
    if course.is_final or not stored.failed or course.progress.stopping is not None:
        return
    if course.progress.turning is not None:
        return  # they are about to be retried or rolled back
    first, count = stored.failed[0], course.progress.failed - course.progress.allowed
    ids = [one.id for one in stored.failed]
    if course.progress.undoing is not None:
        yield Finding(
            "rollback_failed",
            Severity.ERROR,
            f"the rollback of {named(first.key, first.id, count)} failed: {_error(first)};"
            f" {course.progress.undoing} of task {course.id} are still to be undone",
            f"mend the cause, then go on with `taskserver rollback {course.id}`, or count the step as done with"
            f" `taskserver skip {course.id} {first.key!r}`",
            ids,
            count,
        )
        return
    yield Finding(
        "failed",
        Severity.ERROR,
        f"{named(first.key, first.id, count)} of task {course.id} failed: {_error(first)}; {_meanwhile(facts)}",
        _cure_of_failed(facts, first),
        ids,
        count,
    )


def _error(failed: Failed) -> str:
    message = failed.error_message or "no reason was recorded"
    if failed.error_type is None or message.startswith(failed.error_type):
        return message
    return f"{failed.error_type}: {message}"


def _meanwhile(facts: Facts) -> str:
    stored, progress = facts.stored, facts.stored.course.progress
    if stored.course.is_settled:
        return f"{counted(progress.pending)} wait behind the failure"
    parts = [(progress.begun + progress.ready, "under way"), (stored.named, "that an operator named")]
    left = " and ".join(f"{count} {what}" for count, what in parts if count)
    named_too = " but what an operator named" if stored.named else ""
    return f"the task begins nothing more{named_too}" + (f", and fails once {left} have ended" if left else "")


def _cure_of_failed(facts: Facts, first: Failed) -> str:
    task = facts.stored.course.id
    steps = [
        f"look at `taskserver log {task} {first.key!r}`, mend the cause, then `taskserver retry {task}",
        f" {first.key!r}`, or go on without it: `taskserver skip {task} {first.key!r}`",
    ]
    if facts.stored.course.is_settled:
        steps[1] = f"`, or go on without it: `taskserver skip {task} {first.key!r}`"
        steps += [f", undo what began: `taskserver rollback {task}`"] if facts.stored.undoable else []
        steps += [f", give it up: `taskserver abandon {task}`"]
    return "".join(steps)


def late(facts: Facts) -> Iterator[Finding]:
    """Name a deadline that ended the task, and any other end that no subtask explains."""
    course = facts.stored.course
    if course.state is not TaskState.FAILED:
        return
    if course.progress.stopping == "DEADLINE":
        yield Finding(
            "deadline",
            Severity.ERROR,
            f"task {course.id} had not ended at its deadline: {counted(course.progress.pending)} had not begun,"
            f" {course.progress.failed} were stopped or had failed",
            f"`taskserver retry {course.id}` grants the deadline anew; `taskserver abandon {course.id}` gives it up",
            [one.id for one in facts.stored.failed],
            course.progress.failed or None,
        )
    elif not facts.stored.failed:
        yield Finding(
            "task_failed",
            Severity.ERROR,
            f"task {course.id} failed: {course.error_message or 'no subtask of it did, and no reason was recorded'}",
            f"submit it again in a form that can run; `taskserver abandon {course.id}` gives this one up",
        )


def queued_behind(facts: Facts) -> Iterator[Finding]:
    """Name the task that has the instance."""
    course = facts.stored.course
    if not course.queued or course.is_settled:
        return
    line = "" if not course.queued_before else f"; {course.queued_before} queued before it"
    if course.holder is None:
        yield Finding(
            "duplicate",
            Severity.INFO,
            f"task {course.id} queues for an instance that has just become free{line}",
            "it starts within seconds; if not, look whether a `taskserver server` runs",
        )
        return
    holder = course.holder
    yield Finding(
        "duplicate",
        Severity.INFO,
        f"task {course.id} queues behind task {holder.id} ({holder.name}), which was submitted {span(holder.seconds)} ago,"
        f" has its instance and is {holder.state}{line}",
        f"wait, see why that one takes long with `taskserver doctor {holder.id}`, or end it:"
        f" `taskserver cancel {holder.id}`",
    )


def starts_later(facts: Facts) -> Iterator[Finding]:
    """Name a start that is to come."""
    course = facts.stored.course
    if course.opens_in is None or course.opens_in <= 0 or course.is_settled or course.progress.open:
        return
    yield Finding(
        "start_at",
        Severity.INFO,
        f"task {course.id} starts at {wire_time(course.opens_at)}, in {span(course.opens_in)}, as it was submitted to",
        f"wait, or end it (`taskserver cancel {course.id}`) and submit it without startAt",
    )


def delayed(facts: Facts) -> Iterator[Finding]:
    """Name the next attempt where all that could run waits for one."""
    stored, course = facts.stored, facts.stored.course
    retries = [one for one in stored.delayed if not one.declined]
    if not retries or not course.stands_still or not course.progress.open or retries[0].due_in <= 0:
        return
    first, count = retries[0], stored.delayed_count
    yield Finding(
        "retry",
        Severity.INFO,
        f"{named(first.key, first.id, count)} of task {course.id} failed and will be tried again at"
        f" {wire_time(first.due_at)}, in {span(first.due_in)} ({first.failures} of {first.max_attempts} attempts have"
        f" failed; the last one: {first.error_message or 'no reason was recorded'})",
        f"wait, or mend the cause before then: `taskserver log {course.id} {first.key!r}`",
        [one.id for one in retries],
        count,
    )


def awaits_signal(facts: Facts) -> Iterator[Finding]:
    """Name the signals where nothing else of the task can go on."""
    stored, course = facts.stored, facts.stored.course
    signals = next((one for one in stored.gated if one.gate == "signal"), None)
    if signals is None or not course.stands_still or stored.delayed or not course.progress.open:
        return
    yield Finding(
        "signal",
        Severity.INFO,
        f"{named(signals.key, signals.some[0], signals.count)} of task {course.id} wait for a signal",
        f"this version takes no signals: end the task with `taskserver cancel {course.id}`",
        signals.some,
        signals.count,
    )
