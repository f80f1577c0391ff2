"""Why a subtask has not begun: for each row that waits one reason, for all others none."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.states import FINAL_TASK_STATES, Operation, SubtaskState, TaskState
from taskserver.wait_reasons import TaskFacts, wait_reason

TYPES = {
    "upstream",
    "paused",
    "task_failing",
    "retry",
    "start_at",
    "limit",
    "rate",
    "signal",
    "duplicate",
    "no_worker",
    "queued",
}
LATER = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    state: str = SubtaskState.PENDING
    operation: str = Operation.EXECUTE
    gate: str | None = None
    declined: bool = False
    scheduled_at: str | None = None
    queue: str = "default"
    kind: str | None = "test.kind"


RUNNING = TaskFacts(
    state=TaskState.RUNNING,
    open=True,
    opens_at=None,
    failing=False,
    stopping=None,
    undoing=False,
    full=False,
    concurrency=None,
    queued=False,
    holder=None,
    live_kinds={"default": frozenset({"test.kind", "other.kind"}), "old": None},
)
SUSPENDED = replace(RUNNING, state=TaskState.SUSPENDED, open=False)
FAILING = replace(RUNNING, failing=True)
FAILED = replace(FAILING, state=TaskState.FAILED, open=False)
CANCELED = replace(RUNNING, open=False, stopping="CANCEL")
LATE = replace(CANCELED, stopping="DEADLINE")
UNDOING = replace(RUNNING, undoing=True)
QUEUED = replace(RUNNING, state=TaskState.CREATED, open=False, queued=True, holder=3)
FULL = replace(RUNNING, full=True, concurrency=2)
PENDING = Row()
AGAIN = Row(operation=Operation.RETRY)
UNDO = Row(operation=Operation.ROLLBACK)
BEHIND = Row(operation=Operation.ROLLBACK, gate="downstreams")
DELAYED = Row(scheduled_at=LATER.isoformat())
DECLINED = replace(DELAYED, declined=True)


@pytest.mark.parametrize(
    ("task", "row", "holders", "reason"),
    [
        (RUNNING, PENDING, [5], "upstream"),
        (RUNNING, PENDING, [], "queued"),
        (RUNNING, Row(state=SubtaskState.READY), [], "queued"),
        (RUNNING, Row(state=SubtaskState.READY, queue="gpu"), [], "no_worker"),
        (RUNNING, Row(queue="gpu"), [], "no_worker"),
        (RUNNING, Row(gate="signal"), [], "signal"),
        (RUNNING, Row(gate="signal"), [5], "upstream"),
        (RUNNING, Row(gate="when", queue="gpu"), [], "queued"),
        (RUNNING, DELAYED, [], "retry"),
        (FULL, PENDING, [], "limit"),
        (SUSPENDED, PENDING, [], "paused"),
        (SUSPENDED, PENDING, [5], "upstream"),
        (SUSPENDED, DELAYED, [], "paused"),
        (RUNNING, DECLINED, [], "no_worker"),
        (RUNNING, replace(DECLINED, operation=Operation.RETRY), [], "no_worker"),
        (UNDOING, replace(DECLINED, operation=Operation.ROLLBACK), [], "no_worker"),
        (SUSPENDED, DECLINED, [], "paused"),
        (RUNNING, Row(declined=True), [], "queued"),
        (RUNNING, Row(kind="host.mount"), [], "no_worker"),
        (RUNNING, Row(kind="host.mount", state=SubtaskState.READY), [], "no_worker"),
        (RUNNING, Row(kind="host.mount", queue="old"), [], "queued"),
        (RUNNING, Row(kind="host.mount", gate="when"), [], "queued"),
        (RUNNING, Row(kind=None), [], "queued"),
        (UNDOING, replace(UNDO, kind="host.mount"), [], "no_worker"),
        (FULL, Row(kind="host.mount"), [], "limit"),
        (FAILING, PENDING, [], "task_failing"),
        (FAILING, AGAIN, [], "queued"),
        (FAILED, PENDING, [], "task_failing"),
        (FAILED, AGAIN, [], "task_failing"),
        (replace(FAILED, failing=False, stopping="DEADLINE"), PENDING, [], "task_failing"),
        (replace(FAILED, undoing=True), UNDO, [], "task_failing"),
        (replace(FAILED, undoing=True), BEHIND, [7], "upstream"),
        (CANCELED, PENDING, [5], "task_failing"),
        (LATE, AGAIN, [], "task_failing"),
        (UNDOING, PENDING, [5], "task_failing"),
        (UNDOING, AGAIN, [], "task_failing"),
        (UNDOING, UNDO, [], "queued"),
        (UNDOING, UNDO, [5], "queued"),
        (UNDOING, replace(UNDO, queue="gpu"), [], "no_worker"),
        (UNDOING, replace(UNDO, scheduled_at=LATER.isoformat()), [], "retry"),
        (UNDOING, BEHIND, [7], "upstream"),
        (replace(SUSPENDED, undoing=True), UNDO, [], "paused"),
        (QUEUED, PENDING, [], "duplicate"),
        (replace(RUNNING, state=TaskState.CREATED, open=False, opens_at=LATER), PENDING, [], "start_at"),
    ],
)
def test_the_reason_is_the_deepest_that_holds(task: TaskFacts, row: Row, holders: list[int], reason: str) -> None:
    found = wait_reason(task, row, holders)

    assert found is not None
    assert found.type == reason


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (UNDOING, replace(UNDO, gate="undone")),
        (replace(FAILED, undoing=True), Row(operation=Operation.SKIP, gate="undone")),
        (replace(RUNNING, state=TaskState.ROLLED_BACK), PENDING),
        (replace(RUNNING, state=TaskState.REVOKED), PENDING),
        (RUNNING, Row(state=SubtaskState.RUNNING)),
        (RUNNING, Row(state=SubtaskState.CANCELING)),
        (FAILED, Row(state=SubtaskState.FAILED)),
        (RUNNING, Row(state=SubtaskState.SUCCESSFUL)),
    ],
)
def test_what_does_not_wait_has_no_reason(task: TaskFacts, row: Row) -> None:
    assert wait_reason(task, row, []) is None


def test_a_step_of_a_rollback_names_the_downstreams_that_must_be_undone_first() -> None:
    found = wait_reason(UNDOING, BEHIND, [7, 8])

    assert found is not None
    assert found.upstreams == [7, 8]
    assert "undone first" in found.detail


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (CANCELED, "is being cancelled"),
        (LATE, "has passed its deadline"),
        (UNDOING, "is being rolled back"),
        (FAILED, "another subtask has failed"),
        (replace(FAILED, undoing=True), "is being rolled back"),
        (replace(FAILED, failing=False, stopping="DEADLINE"), "at its deadline"),
        (replace(FAILED, failing=False), "the task has failed"),
    ],
)
def test_the_detail_tells_what_stops_the_task(task: TaskFacts, words: str) -> None:
    found = wait_reason(task, PENDING, [])

    assert found is not None
    assert words in found.detail


def test_a_failed_rollback_is_named_to_the_steps_that_it_holds() -> None:
    found = wait_reason(replace(FAILED, undoing=True), UNDO, [])

    assert found is not None
    assert "the rollback of another subtask has failed" in found.detail


@pytest.mark.parametrize("row", [Row(kind="host.mount"), replace(DECLINED, kind="host.mount")])
def test_a_kind_that_no_live_worker_of_the_queue_has_is_named_with_its_cure(row: Row) -> None:
    found = wait_reason(RUNNING, row, [])

    assert found is not None
    assert "no live worker of the queue default has a handler for the kind host.mount" in found.detail
    assert "TASKSERVER_HANDLERS" in found.detail


def test_what_was_brought_to_a_wrong_worker_is_offered_again_to_those_that_have_its_kind() -> None:
    found = wait_reason(RUNNING, DECLINED, [])

    assert found is not None
    assert "a worker of the queue default had no handler for the kind test.kind" in found.detail
    assert found.until is not None


tasks = st.builds(
    TaskFacts,
    state=st.sampled_from(list(TaskState)),
    open=st.booleans(),
    opens_at=st.sampled_from([None, LATER]),
    failing=st.booleans(),
    stopping=st.sampled_from([None, "CANCEL", "DEADLINE"]),
    undoing=st.booleans(),
    full=st.booleans(),
    concurrency=st.just(2),
    queued=st.booleans(),
    holder=st.sampled_from([None, 3]),
    live_kinds=st.sampled_from(
        [{}, {"default": frozenset[str]()}, {"default": None}, {"default": frozenset({"test.kind"})}]
    ),
)
rows = st.builds(
    Row,
    state=st.sampled_from(list(SubtaskState)),
    operation=st.sampled_from(list(Operation)),
    gate=st.sampled_from([None, "when", "signal", "foreach", "downstreams", "undone"]),
    declined=st.booleans(),
    kind=st.sampled_from([None, "test.kind"]),
    scheduled_at=st.sampled_from([None, LATER.isoformat()]),
)


@given(tasks, rows, st.lists(st.integers(1, 9), max_size=3))
def test_whatever_waits_has_one_reason_of_the_published_ones(task: TaskFacts, row: Row, holders: list[int]) -> None:
    waits = (
        task.state not in FINAL_TASK_STATES
        and row.state in {SubtaskState.PENDING, SubtaskState.READY}
        and row.gate != "undone"
    )

    found = wait_reason(task, row, holders)

    assert (found is not None) == waits
    assert found is None or (found.type in TYPES and found.detail)
