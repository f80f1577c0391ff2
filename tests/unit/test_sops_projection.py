"""What bk-sops' clients see of each state: every state of a task, every state and operation of a subtask."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from schema.states import Operation, SubtaskState, TaskState
from taskserver.dialects.sops import NODE_STATES, TASK_STATES, SopsNode, local_time, status_of
from taskserver.queries.node_status import NodeStatus, StatusTree

TASK = "5a1622f9f43e3429acb604e100000000"
NODE = "5a1622f9f43e3429acb604e100000001"
WORDS = {"CREATED", "RUNNING", "FAILED", "SUSPENDED", "REVOKED", "FINISHED"}
BEGAN, ENDED, NOW = 1_524_730_114, 1_524_730_126, 1_524_730_200


def _row(state: SubtaskState, operation: Operation = Operation.EXECUTE, **columns: object) -> NodeStatus:
    begun = state not in {SubtaskState.PENDING, SubtaskState.READY}
    ended = state in {SubtaskState.FAILED, SubtaskState.SUCCESSFUL}
    row = NodeStatus(
        series_id=0,
        name="step",
        state=state,
        operation=operation,
        attempt=1 if begun else 0,
        generation=0,
        allow_failure=False,
        started_at=BEGAN if begun else None,
        finalized_at=ENDED if ended else None,
        error_type=None,
        error_message=None,
    )
    return row._replace(**columns)  # type: ignore[arg-type]


def _tree(*rows: NodeStatus, state: TaskState = TaskState.RUNNING, **columns: object) -> StatusTree:
    given: dict[str, object] = {"started_at": BEGAN, "finalized_at": None, **columns}
    return StatusTree(task_hex=TASK, name="deploy", state=state, now=NOW, nodes=rows, **given)  # type: ignore[arg-type]


def _task(state: TaskState, *rows: NodeStatus, **columns: object) -> SopsNode:
    return status_of(_tree(*rows, state=state, **columns), is_node=False, with_ex_data=False)


def _node(row: NodeStatus) -> SopsNode:
    return status_of(_tree(row), is_node=True, with_ex_data=False)


@pytest.fixture
def shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        local_time.cache_clear()
        yield
    time.tzset()
    local_time.cache_clear()


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (TaskState.CREATED, "CREATED"),
        (TaskState.RUNNING, "RUNNING"),
        (TaskState.SUSPENDED, "SUSPENDED"),
        (TaskState.FAILED, "FAILED"),
        (TaskState.REVOKED, "REVOKED"),
        (TaskState.SUCCESSFUL, "FINISHED"),
        (TaskState.ROLLED_BACK, "REVOKED"),
    ],
)
@pytest.mark.parametrize("subtask", list(SubtaskState))
def test_a_task_shows_its_own_state_whatever_its_nodes_do(state: TaskState, word: str, subtask: SubtaskState) -> None:
    assert _task(state, _row(subtask))["state"] == word


def test_every_state_has_a_word_that_the_original_knows() -> None:
    assert set(TASK_STATES) == set(TaskState)
    assert set(NODE_STATES) == set(SubtaskState)
    assert set(TASK_STATES.values()) | set(NODE_STATES.values()) == WORDS


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize(
    ("state", "word", "has_begun", "has_ended"),
    [
        (SubtaskState.PENDING, "CREATED", False, False),
        (SubtaskState.READY, "CREATED", False, False),
        (SubtaskState.RUNNING, "RUNNING", True, False),
        (SubtaskState.CANCELING, "RUNNING", True, False),
        (SubtaskState.FAILED, "FAILED", True, True),
        (SubtaskState.SUCCESSFUL, "FINISHED", True, True),
    ],
)
def test_a_node_shows_its_state_and_the_times_of_its_last_run(
    state: SubtaskState, operation: Operation, word: str, has_begun: bool, has_ended: bool
) -> None:
    node = _node(_row(state, operation))

    assert node["state"] == word
    assert bool(node["start_time"]) == has_begun
    assert bool(node["finish_time"]) == has_ended
    assert node["elapsed_time"] == (ENDED - BEGAN if has_ended else NOW - BEGAN if has_begun else 0)
    assert node["skip"] == (operation is Operation.SKIP)
    assert (node["id"], node["parent_id"], node["name"], node["loop"], node["children"]) == (NODE, TASK, "step", 1, {})


def test_what_waits_to_run_again_has_no_times_although_it_ran_before() -> None:
    again = _row(SubtaskState.PENDING, Operation.RETRY, attempt=1, generation=1, started_at=BEGAN, finalized_at=ENDED)

    node = _node(again)

    assert (node["state"], node["start_time"], node["finish_time"], node["elapsed_time"]) == ("CREATED", "", "", 0)
    assert node["retry"] == 1


def test_what_ended_without_a_run_began_when_it_ended() -> None:
    node = _node(_row(SubtaskState.SUCCESSFUL, attempt=0, started_at=None))

    assert node["start_time"] == node["finish_time"] == local_time(ENDED)
    assert node["elapsed_time"] == 0


def test_clocks_that_differ_make_no_negative_time() -> None:
    assert _node(_row(SubtaskState.SUCCESSFUL, started_at=ENDED + 1))["elapsed_time"] == 0


def test_the_course_of_a_node_counts_retries_and_gives_each_run_a_version_of_its_own() -> None:
    first = _row(SubtaskState.PENDING)
    retried = {"attempt": 1, "generation": 1, "operation": Operation.RETRY}
    course = [
        ("waiting", 0, first),
        ("waiting", 0, first._replace(state=SubtaskState.READY)),
        ("waiting", 0, _row(SubtaskState.RUNNING)),
        ("waiting", 0, _row(SubtaskState.FAILED)),
        ("again by itself", 1, first._replace(attempt=1)),
        ("again by itself", 1, _row(SubtaskState.RUNNING, attempt=2)),
        ("by an operator", 1, first._replace(**retried)),  # type: ignore[arg-type]
        ("by an operator", 1, _row(SubtaskState.RUNNING, **{**retried, "attempt": 2})),  # type: ignore[arg-type]
        ("by an operator", 1, _row(SubtaskState.SUCCESSFUL, **{**retried, "attempt": 2})),  # type: ignore[arg-type]
        ("skipped", 1, _row(SubtaskState.SUCCESSFUL, Operation.SKIP)),
        ("skipped after a retry", 2, _row(SubtaskState.SUCCESSFUL, Operation.SKIP, attempt=2, generation=1)),
        ("cancelled", 0, _row(SubtaskState.FAILED, Operation.CANCEL)),
        ("to be undone", 0, first._replace(attempt=1, generation=1, operation=Operation.ROLLBACK)),
        ("undoing", 1, _row(SubtaskState.RUNNING, Operation.ROLLBACK, attempt=2, generation=1)),
    ]

    versions: dict[str, set[str]] = {}
    for run, retry, row in course:
        node = _node(row)
        versions.setdefault(run, set()).add(node["version"])
        assert node["retry"] == retry, (run, row)

    assert all(len(some) == 1 for some in versions.values()), versions
    distinct = {one for some in versions.values() for one in some}
    assert len(distinct) == len(versions)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in distinct)


def test_two_nodes_never_share_a_version() -> None:
    nodes = _task(TaskState.RUNNING, *(_row(SubtaskState.RUNNING, series_id=number) for number in range(100)))[
        "children"
    ]

    assert len({one["version"] for one in nodes.values()}) == 100


@pytest.mark.parametrize("state", [TaskState.REVOKED, TaskState.SUCCESSFUL, TaskState.ROLLED_BACK])
def test_a_task_that_can_no_longer_go_on_has_a_finish_time(state: TaskState) -> None:
    status = _task(state, finalized_at=ENDED)

    assert status["finish_time"] == local_time(ENDED)
    assert status["elapsed_time"] == ENDED - BEGAN


def test_a_failed_task_has_none_because_it_can_go_on_and_its_clock_stands_still() -> None:
    status = _task(TaskState.FAILED, finalized_at=ENDED)

    assert (status["finish_time"], status["elapsed_time"]) == ("", ENDED - BEGAN)


def test_a_task_that_has_not_begun_has_no_times() -> None:
    status = _task(TaskState.CREATED, started_at=None)

    assert (status["start_time"], status["finish_time"], status["elapsed_time"], status["children"]) == ("", "", 0, {})


def test_times_are_written_in_the_zone_of_the_server(shanghai: None) -> None:
    assert local_time(BEGAN) == "2018-04-26 16:08:34 +0800"


def test_a_time_can_be_read_back_in_any_zone() -> None:
    read = datetime.strptime(local_time(BEGAN), "%Y-%m-%d %H:%M:%S %z")

    assert read == datetime.fromtimestamp(BEGAN, UTC)


def test_an_allowed_failure_says_so() -> None:
    allowed, other = _row(SubtaskState.FAILED, allow_failure=True), _row(SubtaskState.SUCCESSFUL, allow_failure=True)

    assert (_node(allowed)["error_ignored"], _node(allowed)["error_ignorable"]) == (True, True)
    assert (_node(other)["error_ignored"], _node(other)["error_ignorable"]) == (False, False)


@pytest.mark.parametrize(
    ("error_type", "message", "told"),
    [
        ("RuntimeError", "m", "RuntimeError: m"),
        ("KeyError", "KeyError: 'x'", "KeyError: 'x'"),
        ("ValueError", "ValueError", "ValueError"),
        ("refused", None, "refused"),
        (None, "no disk", "no disk"),
        (None, None, ""),
    ],
)
def test_ex_data_says_the_type_once(error_type: str | None, message: str | None, told: str) -> None:
    failed = _row(SubtaskState.FAILED, error_type=error_type, error_message=message)

    assert status_of(_tree(failed), is_node=False, with_ex_data=True)["ex_data"] == {NODE: told}


def test_ex_data_tells_of_failed_nodes_only_and_only_when_asked() -> None:
    failed = _row(SubtaskState.FAILED, error_type="ValueError", error_message="no disk")
    tree = _tree(failed, _row(SubtaskState.SUCCESSFUL, series_id=1), _row(SubtaskState.PENDING, series_id=2))

    asked = status_of(tree, is_node=False, with_ex_data=True)

    assert asked["ex_data"] == {NODE: "ValueError: no disk"}
    assert status_of(tree, is_node=False, with_ex_data=False).keys() == SopsNode.__required_keys__
    assert status_of(_tree(failed), is_node=True, with_ex_data=True)["ex_data"] == {NODE: "ValueError: no disk"}
