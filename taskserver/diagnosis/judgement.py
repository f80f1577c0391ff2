"""From facts to a diagnosis: all rules in the order in which people want to read them, and one sentence on the whole.

Pure. A task that moves, or waits its fair turn, gets no finding.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from taskserver.diagnosis import course_rules, running_rules, service_rules
from taskserver.diagnosis.facts import Facts
from taskserver.diagnosis.finding import Finding, Severity, counted

Rule = Callable[[Facts], Iterable[Finding]]

RULES: tuple[Rule, ...] = (
    service_rules.row_locked,
    service_rules.broker_away,
    course_rules.failed,
    course_rules.late,
    course_rules.paused,
    running_rules.does_not_stop,
    running_rules.lost_worker,
    service_rules.no_worker,
    service_rules.kind_unknown,
    service_rules.messages_not_taken,
    service_rules.nobody_dispatches,
    running_rules.fills_the_task,
    running_rules.runs_too_long,
    course_rules.queued_behind,
    course_rules.starts_later,
    course_rules.delayed,
    course_rules.awaits_signal,
    service_rules.unexplained,
)
_SEVERITIES = list(Severity)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is known about one task: findings, the most urgent first, and how it stands in one sentence."""

    facts: Facts
    findings: tuple[Finding, ...]
    summary: str


def judge(facts: Facts) -> Diagnosis:
    """Return what the facts say."""
    found = [finding for rule in RULES for finding in rule(facts)]
    found.sort(key=lambda one: _SEVERITIES.index(one.severity))
    return Diagnosis(facts, tuple(found), f"{_standing(facts)}: {_verdict(facts, len(found))}")


def _verdict(facts: Facts, count: int) -> str:
    if count:
        return counted(count, "finding")
    return "nothing is left to do" if facts.stored.course.is_final else "nothing is wrong"


def _standing(facts: Facts) -> str:
    course = facts.stored.course
    progress = course.progress
    if course.is_final:
        return f"task {course.id} is {course.state}"
    before = progress.pending - progress.startable if progress.open else progress.pending
    parts = [
        (progress.begun, "run"),
        (progress.ready, "are on their way to workers"),
        (progress.startable if progress.open else 0, "wait for their turn"),
        (before, "wait for what comes before"),
        (progress.failed, "failed"),
        (progress.successful, "ended well"),
    ]
    told = ", ".join(f"{count} {what}" for count, what in parts if count)
    line = f"; {counted(facts.stored.ahead, 'task')} of the account come first" if facts.stored.ahead else ""
    if course.is_inserted:
        line = "; it waits in the line of rows that were inserted by SQL"
    return f"task {course.id} is {course.state}{' — ' + told if told else ''}{line}"
