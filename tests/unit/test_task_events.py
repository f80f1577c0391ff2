"""What a pool process tells of its subtasks, as Celery's own picture of tasks takes it: Flower keeps the same picture."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.events.state import State, Task
from structlog.testing import capture_logs

from schema.identity import SubtaskId, TaskId, subtask_hex
from schema.inputs import TaskInfo
from schema.redaction import MASK
from schema.task_events import Event, Happening, Node, shown_value
from schema.transitions.claims import Claimed
from schema.transitions.records import Outcome, Recorded
from tests.eventually import eventually
from workers import events
from workers.attempt import Finished
from workers.events import TaskEvents

TASK = TaskInfo(id=TaskId(7), hex_id="ab" * 12 + "0" * 8, arguments={"password": "hunter2"})
SECRETIVE = replace(TASK, redacts=True)
BEGAN = datetime(2026, 11, 21, tzinfo=UTC)
NO_PROGRESS: Any = None  # nobody looks at it here
NO_LOG: Any = None


class Audience:
    """Takes events as a broker does, and keeps the picture that Celery makes of them."""

    def __init__(self, *, listens: bool = True) -> None:
        self.listens = listens
        self.away = False
        self.events: list[Event] = []
        self.calls = 0

    def hear(self, told: Sequence[Event]) -> int:
        self.calls += 1
        if self.away:
            raise ConnectionError("away")
        if self.listens:
            self.events += told
        return int(self.listens)

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def task(self, series_id: int = 0) -> Task:
        """Return what Celery knows of the subtask by now."""
        state = State()
        for number, event in enumerate(list(self.events)):
            state.event({**event, "clock": number, "local_received": event["timestamp"]})
        return state.tasks.get(subtask_hex(TASK.hex_id, series_id))


@pytest.fixture
def audience() -> Audience:
    return Audience()


@pytest.fixture
def told(audience: Audience) -> Iterator[TaskEvents]:
    told = TaskEvents(audience.hear, hostname="dev@here", listens=lambda: audience.listens)
    yield told
    audience.away = False
    told.stop()


def _claimed(series_id: int = 0, *, attempt: int = 1, **members: Any) -> Claimed:
    given: dict[str, Any] = {
        "id": SubtaskId(100 + series_id),
        "claim": 1,
        "operation": "EXECUTE",
        "attempt": attempt,
        "failures": attempt - 1,
        "generation": 0,
        "series_id": series_id,
        "parallel_idx": -1,
        "key": f"part[{series_id}]",
        "kind": "host.check",
        "arguments": {"password": "hunter2"},
        "from_keys": (),
        "timeout": None,
        "max_attempts": 3,
        "backoff_seconds": 1.0,
        "claimed_at": BEGAN,
    }
    return Claimed(**given | members)


def _outcome(claimed: Claimed, verdict: Any = "SUCCESSFUL", **members: Any) -> Outcome:
    error = {"error_type": "ValueError", "error_message": "no such host"} if verdict != "SUCCESSFUL" else {}
    return Outcome(claimed.id, verdict, BEGAN, BEGAN + timedelta(seconds=2), **{**error, **members})


def _finished(claimed: Claimed, outcome: Outcome) -> Finished:
    return Finished(claimed, outcome, NO_LOG)


def _recorded(*outcomes: Outcome, canceled: Sequence[Outcome] = ()) -> Recorded:
    clean = not canceled and all(one.verdict == "SUCCESSFUL" for one in outcomes)
    ids = frozenset(one.id for one in outcomes)
    return Recorded(ids, NO_PROGRESS, clean=clean, canceled=frozenset(one.id for one in canceled))


def _run(
    told: TaskEvents, claimed: Claimed, verdict: Any = "SUCCESSFUL", *, of: TaskInfo = TASK, **members: Any
) -> None:
    told.begun(of, claimed)
    outcome = _outcome(claimed, verdict, **members)
    told.ended(of, [_finished(claimed, outcome)], _recorded(outcome))


def test_a_subtask_is_a_task_named_after_its_kind_with_the_task_as_root(audience: Audience, told: TaskEvents) -> None:
    _run(told, _claimed(3), result=8)
    told.stop()

    task = audience.task(3)
    assert (task.name, task.root_id, task.state) == ("host.check", TASK.hex_id, "SUCCESS")
    assert (task.args, task.retries, task.result, task.runtime) == ("part[3]", 0, "8", 2.0)
    assert task.worker.hostname == "dev@here"
    assert audience.types == ["task-received", "task-started", "task-succeeded"]


def test_what_runs_is_told_before_it_ends(audience: Audience, told: TaskEvents) -> None:
    told.begun(TASK, _claimed())

    task = eventually(audience.task)

    assert task.state == "STARTED"


def test_a_failure_shows_what_went_wrong_and_where_there_is_more(audience: Audience, told: TaskEvents) -> None:
    _run(told, _claimed(), "FAILED")
    told.stop()

    task = audience.task()
    assert (task.state, task.exception) == ("FAILURE", "ValueError: no such host")
    assert "taskserver log 7 'part[0]'" in task.traceback


def test_an_attempt_that_another_follows_is_a_retry_and_leaves_no_trace_on_success(
    audience: Audience, told: TaskEvents
) -> None:
    _run(told, _claimed(), "RETRY")
    between = eventually(audience.task)
    _run(told, _claimed(attempt=2))
    told.stop()

    after = audience.task()
    assert (between.state, between.exception) == ("RETRY", "ValueError: no such host")
    assert (after.state, after.retries, after.exception, after.traceback) == ("SUCCESS", 1, None, None)


@pytest.mark.parametrize("ended", ["FAILED", "SUCCESSFUL"])
def test_what_runs_again_after_its_end_is_told_as_running(audience: Audience, told: TaskEvents, ended: str) -> None:
    _run(told, _claimed(), ended)
    told.begun(TASK, _claimed(attempt=2, operation="ROLLBACK"))
    told.stop()

    task = audience.task()
    assert (task.state, task.kwargs) == ("STARTED", "ROLLBACK")


def test_what_was_cancelled_is_revoked_whatever_its_handler_did(audience: Audience, told: TaskEvents) -> None:
    claimed = _claimed()
    outcome = _outcome(claimed)

    told.begun(TASK, claimed)
    told.ended(TASK, [_finished(claimed, outcome)], _recorded(outcome, canceled=[outcome]))
    told.stop()

    assert audience.task().state == "REVOKED"


def test_of_a_claim_that_was_lost_no_end_is_told(audience: Audience, told: TaskEvents) -> None:
    claimed = _claimed()

    told.begun(TASK, claimed)
    told.ended(TASK, [_finished(claimed, _outcome(claimed))], _recorded())
    told.stop()

    assert audience.task().state == "STARTED"


def test_what_somebody_else_recorded_is_told_as_it_is(audience: Audience, told: TaskEvents) -> None:
    node = Node(TaskId(7), TASK.hex_id, 0, "part[0]", "host.check", 1, "EXECUTE")

    told.happened(Happening(time.time(), "failed", node, 1.0, "timeout: did not stop"))
    told.stop()

    task = audience.task()
    assert (task.name, task.state, task.exception) == ("host.check", "FAILURE", "timeout: did not stop")


def test_arguments_and_large_results_are_not_told(audience: Audience, told: TaskEvents) -> None:
    _run(told, _claimed(0), result={"token": "hunter2"})
    _run(told, _claimed(1), result=["hunter2"] * 3)
    _run(told, _claimed(2), result="hunter2")
    told.stop()

    assert "hunter2" not in str(audience.events)
    assert [audience.task(n).result for n in range(3)] == ["{1 members}", "[3 elements]", "7 characters"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "None"), (True, "True"), (8, "8"), (0.5, "0.5"), ("ok", "2 characters"), ([], "[0 elements]")],
)
def test_of_results_numbers_and_sizes_are_shown(value: object, shown: str) -> None:
    assert shown_value(value) == shown


def test_a_long_number_is_cut() -> None:
    assert len(shown_value(10**4000)) < 100


@pytest.mark.parametrize("result", [4711, True, "hunter2", {"pin": 4711}])
def test_of_a_task_that_hides_something_no_result_is_told(audience: Audience, told: TaskEvents, result: object) -> None:
    _run(told, _claimed(), of=SECRETIVE, result=result)
    told.stop()

    assert (audience.task().state, audience.task().result) == ("SUCCESS", MASK)


@pytest.mark.parametrize("verdict", ["FAILED", "RETRY"])
def test_of_a_task_that_hides_something_an_error_is_told_by_its_type_alone(
    audience: Audience, told: TaskEvents, verdict: str
) -> None:
    _run(told, _claimed(), verdict, of=SECRETIVE, error_message="no login with hunter2")
    told.stop()

    assert audience.task().exception == "ValueError"
    assert "hunter2" not in str(audience.events)


def test_nothing_is_noted_while_nobody_listens_and_an_end_is_told_to_who_came_later(
    audience: Audience, told: TaskEvents
) -> None:
    audience.listens = False
    claimed = _claimed()
    told.begun(TASK, claimed)
    assert not told._notes

    audience.listens = True
    outcome = _outcome(claimed)
    told.ended(TASK, [_finished(claimed, outcome)], _recorded(outcome))
    told.stop()

    assert audience.types == ["task-succeeded"]
    assert audience.task().name == "host.check"


def test_the_end_of_an_attempt_that_may_be_followed_waits_for_nothing(
    audience: Audience, told: TaskEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_GATHER_SECONDS", 3600)
    monkeypatch.setattr(events, "_REST_SECONDS", 3600)

    _run(told, _claimed(), "RETRY")

    eventually(lambda: audience.types == ["task-received", "task-started", "task-retried"])


def test_what_happens_while_the_broker_is_away_is_told_when_it_is_back(
    audience: Audience, told: TaskEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_AWAY_SECONDS", 0.01)
    audience.away = True
    _run(told, _claimed(), "FAILED")
    eventually(lambda: audience.calls >= 3, what="it was tried again")

    audience.away = False

    eventually(lambda: audience.types == ["task-received", "task-started", "task-failed"])


def test_the_oldest_is_dropped_and_counted_when_too_much_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_AWAY_SECONDS", 0.01)
    audience = Audience()
    audience.away = True
    told = TaskEvents(audience.hear, hostname="dev@here", listens=lambda: True, most_waiting=10)
    for number in range(50):
        told.begun(TASK, _claimed(number))
    eventually(lambda: audience.calls >= 3, what="it was tried again")
    assert len(told._untold) <= 10

    with capture_logs() as logs:
        audience.away = False
        eventually(lambda: audience.task(49))
        told.stop()

    assert audience.types == ["task-received", "task-started"] * 10
    assert audience.task(39) is None
    assert [line["dropped"] for line in logs if "dropped" in line] == [40]


def test_what_waits_at_the_end_of_the_process_is_published(audience: Audience, told: TaskEvents) -> None:
    for number in range(1_000):
        _run(told, _claimed(number))
    told.stop()

    assert audience.types.count("task-succeeded") == 1_000


def test_an_end_does_not_wait_long_for_a_broker_that_is_away(audience: Audience, told: TaskEvents) -> None:
    audience.away = True
    _run(told, _claimed())
    began = time.monotonic()

    told.stop()

    assert time.monotonic() - began < events._END_SECONDS + 1
    assert audience.events == []


def test_no_thread_is_started_before_there_is_something_to_tell(audience: Audience, told: TaskEvents) -> None:
    audience.listens = False

    _run(told, _claimed(), "FAILED")

    assert told._thread is None
