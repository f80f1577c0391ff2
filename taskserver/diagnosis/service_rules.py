"""What a task needs from the service and lacks: workers, the broker, a dispatcher, its own row.

Pure: each rule judges the facts and yields what it finds.
"""

from collections.abc import Iterator, Sequence

from schema.states import SubtaskState
from taskserver.diagnosis.facts import Facts, Group, WorkerFacts
from taskserver.diagnosis.finding import SHOWN, Finding, Severity, counted, span
from taskserver.diagnosis.thresholds import (
    DISPATCH_SECONDS,
    LOCK_SECONDS,
    MOMENT_SECONDS,
    NEW_WORKER_SECONDS,
    OWN_LOCK_SECONDS,
)
from taskserver.projection import wire_time

_SERVER_CURE = "look whether a `taskserver server` runs on this database and this broker, and what it logs"


def row_locked(facts: Facts) -> Iterator[Finding]:
    """Name the transaction that holds the task's row for too long."""
    locker, task = facts.stored.locker, facts.stored.course.id
    if locker is None:
        return
    if locker.seconds is not None and locker.seconds < (OWN_LOCK_SECONDS if locker.is_ours else LOCK_SECONDS):
        return
    since = "" if locker.seconds is None else f" for {span(locker.seconds)}"
    state = "" if locker.state is None else f", {locker.state}"
    yield Finding(
        "row_locked",
        Severity.ERROR,
        f"the PostgreSQL session {locker.pid} ({locker.application or 'without a name'}{state}) has held the row of task"
        f" {task} in an open transaction{since}: nothing of the task can be recorded or released",
        f"commit or end that transaction, or in SQL: SELECT pg_terminate_backend({locker.pid})",
    )


def broker_away(facts: Facts) -> Iterator[Finding]:
    """Name a broker that does not answer."""
    if facts.broker.error is not None and not facts.stored.course.is_settled:
        yield Finding(
            "broker",
            Severity.ERROR,
            f"the broker does not answer: {facts.broker.error}",
            "see that Redis runs and that TASKSERVER_REDIS_URL is right: `taskserver check`; what was released comes back",
        )


def no_worker(facts: Facts) -> Iterator[Finding]:
    """Name each queue that something waits for and that no live worker serves."""
    queues = {one.queue for one in facts.stored.groups}
    for queue in sorted(queues):
        if facts.live_workers(queue):
            continue
        groups = [one for one in facts.stored.groups if one.queue == queue]
        last = next((one for one in facts.stored.workers if queue in one.queues), None)
        count = sum(one.count for one in groups)
        yield Finding(
            "no_worker",
            Severity.ERROR,
            f"{counted(count)} of task {facts.stored.course.id} could run, but no live worker serves the queue"
            f" {queue!r}: {_last_seen(last)}",
            f"start one: `taskserver worker --queues {queue}`",
            _some_ids(groups),
            count,
        )


def _last_seen(worker: WorkerFacts | None) -> str:
    if worker is None:
        return "none is known that ever did"
    if worker.stopped:
        return f"the last one, {worker.name}, stopped {span(worker.silent_seconds)} ago"
    return f"the last one, {worker.name} (pid {worker.pid} on {worker.host}), is silent since {span(worker.silent_seconds)}"


def kind_unknown(facts: Facts) -> Iterator[Finding]:
    """Name each kind that live workers of its queue cannot run."""
    for queue, kind in sorted({(one.queue, one.kind) for one in facts.stored.groups}):
        live = facts.live_workers(queue)
        lacking = [one.name for one in live if one.lacks(kind)]
        if not lacking:
            continue
        groups = [one for one in facts.stored.groups if (one.queue, one.kind) == (queue, kind)]
        count = sum(one.count for one in groups)
        who = "no live worker" if len(lacking) == len(live) else f"not every live worker ({', '.join(lacking)} cannot)"
        yield Finding(
            "kind_unknown",
            Severity.ERROR if len(lacking) == len(live) else Severity.WARNING,
            f"{counted(count)} of task {facts.stored.course.id} need the kind {kind!r}, which {who} of the queue"
            f" {queue!r} has: they wait for one that has it",
            f"name the module of {kind!r} in TASKSERVER_HANDLERS of those workers and restart them, or start others",
            _some_ids(groups),
            count,
        )


def messages_not_taken(facts: Facts) -> Iterator[Finding]:
    """Name what was released long ago, and is with no worker although one is free."""
    for group in _untaken(facts, facts.unmoved):
        length = facts.broker.lengths.get(group.queue, 0)
        what = f"{group.count} of task {facts.stored.course.id} (kind {group.kind!r}) were released"
        ago = f"{what} {span(group.oldest_seconds)} ago"
        if length == 0:
            yield _not_taken(
                group,
                "message_lost",
                f"{ago}, the queue {group.queue!r} is empty and no worker has them: their messages are lost, and no server"
                " has sent them again",
                _SERVER_CURE + " with action=recall",
            )
        else:
            yield _not_taken(
                group,
                "messages_not_taken",
                f"{ago}, and {length} messages lie in the queue {group.queue!r}, although its workers have free slots",
                f"restart the workers of {group.queue!r}; see that their TASKSERVER_REDIS_URL is that of the servers",
            )


def _untaken(facts: Facts, groups: Sequence[Group]) -> list[Group]:
    return [one for one in groups if one.unclaimed and _has_free_worker(facts, one.queue)]


def _not_taken(group: Group, type_: str, message: str, cure: str) -> Finding:
    return Finding(type_, Severity.ERROR, message, cure, group.some, group.count)


def _has_free_worker(facts: Facts, queue: str) -> bool:
    return any(one.free_slots > 0 and one.seconds > NEW_WORKER_SECONDS for one in facts.live_workers(queue))


def should_move(facts: Facts) -> bool:
    """Tell whether a dispatcher would release something of the task at once, or a worker take it.

    It may be a matter of a moment: it says something only where it stays so.
    """
    if _is_held_up(facts) or facts.broker.error is not None:
        return False
    groups, progress = facts.stored.groups, facts.stored.course.progress
    if progress.turning is not None or _waits_long_in_line(facts):
        return True
    return bool(_untaken(facts, groups) or _releasable(facts, groups))


def _waits_long_in_line(facts: Facts) -> bool:
    course = facts.stored.course
    return course.is_inserted and bool(facts.stored.line) and course.seconds > DISPATCH_SECONDS


def _is_held_up(facts: Facts) -> bool:
    """Tell whether somebody holds the task's row for so long that nobody else can do much with it."""
    locker = facts.stored.locker
    return locker is not None and (locker.seconds is None or locker.seconds > MOMENT_SECONDS)


def _releasable(facts: Facts, groups: Sequence[Group]) -> list[Group]:
    if not facts.stored.course.progress.may_start:
        return []
    return [
        one
        for one in groups
        if one.state is SubtaskState.PENDING
        and not one.declined
        and facts.broker.lengths.get(one.queue, 0) == 0
        and _has_free_worker(facts, one.queue)
    ]


def nobody_dispatches(facts: Facts) -> Iterator[Finding]:
    """Name what a dispatcher would have done by now."""
    evidence = list(_left_undone(facts))
    if evidence:
        yield Finding(
            "dispatcher",
            Severity.ERROR,
            f"no dispatcher looks after task {facts.stored.course.id}: {'; '.join(evidence)}",
            f"{_SERVER_CURE} with action=dispatch; restart it",
        )


def _left_undone(facts: Facts) -> Iterator[str]:
    stored, course = facts.stored, facts.stored.course
    releasable = _releasable(facts, facts.unmoved)
    if releasable and facts.unmoved_seconds is not None:
        yield (
            f"{counted(sum(one.count for one in releasable))} could start, the queue is empty and a worker is free, and nothing was"
            f" released while it was watched for {span(facts.unmoved_seconds)}"
        )
    if course.is_settled or _is_held_up(facts):
        return
    if facts.unmoved_seconds is not None and course.progress.turning is not None:
        verb = "retry" if course.progress.undoing is None else "rollback"
        yield f"its {verb} was not gone on with while it was watched for {span(facts.unmoved_seconds)}"
    if facts.unmoved_seconds is not None and _waits_long_in_line(facts):
        yield (
            f"it was inserted by SQL {span(course.seconds)} ago, and no row of its account was started while it was watched"
            f" for {span(facts.unmoved_seconds)}"
        )
    if not course.progress.open and course.opens_in is not None and course.opens_in < -DISPATCH_SECONDS:
        yield f"its start was due {span(-course.opens_in)} ago, at {wire_time(course.opens_at)}"
    if course.progress.open and stored.delayed and stored.delayed[0].due_in < -DISPATCH_SECONDS:
        first = stored.delayed[0]
        yield f"the next attempt of {first.key!r} ({first.id}) was due {span(-first.due_in)} ago"
    if (course.overdue_seconds or 0.0) > DISPATCH_SECONDS and course.progress.stopping is None:
        yield f"its deadline passed {span(course.overdue_seconds or 0.0)} ago and it was not stopped"


def unexplained(facts: Facts) -> Iterator[Finding]:
    """Name a task that stands still although nothing that is known holds it."""
    stored, course = facts.stored, facts.stored.course
    progress = course.progress
    if not progress.open or course.is_settled or progress.is_failing or not progress.pending or not course.stands_still:
        return
    if course.subtask_count is None or stored.delayed or stored.gated or progress.stopping is not None:
        return
    could = sum(one.count for one in stored.groups)
    yield Finding(
        "inconsistent",
        Severity.ERROR,
        f"{counted(progress.pending)} of task {course.id} wait, nothing of it runs, and {could} that could start are not"
        " counted as such: its rows contradict each other",
        f"was it changed by hand? `taskserver cancel {course.id}`, submit it again, and report what"
        f" `taskserver show {course.id} --json` prints",
        _some_ids(stored.groups),
        could or None,
    )


def _some_ids(groups: Sequence[Group]) -> list[int]:
    return sorted(one for group in groups for one in group.some)[:SHOWN]
