"""The views of a detail are made without a check of each: they are what a check would make of them, to the byte."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from taskserver.queries.details import task_detail
from taskserver.views.subtasks import Subtask
from tests.factories import StoredTask, make_task
from tests.invariants import assert_invariants
from tests.operators import use

SAID: dict[str, Any] = {"name": "Ünï\u2028\"'", "kind": None, "timeout": 2.5, "parallel_idx": 3, "description": ""}
RESULT = {"a": [1e16, 1.5, None, {"ü": True}], "": "\x7f"}


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


@pytest.fixture
def going(engine: Engine) -> StoredTask:
    """Return a task with a subtask in each state, and whatever a row can hold."""
    keys = ("done", "allowed", "released", "running", "canceling", "waiting", "after")
    graph = {**dict.fromkeys(keys, ()), "after": ("done", "waiting")}
    task = make_task(engine, graph, {"waiting": SAID, "allowed": {"allow_failure": True}})
    task.run("done", result=RESULT)
    task.run("allowed", verdict="FAILED", error_type="ValueError", error_message="nö\n", error_line=7)
    task.begin("running", "canceling")
    use(task, "cancel", "canceling")
    task.release("released")
    return task


@pytest.fixture
def undoing(engine: Engine) -> StoredTask:
    task = make_task(engine, {"a": (), "b": ("a",)}, {key: {"has_rollback": True} for key in "ab"})
    task.run("a")
    task.run("b", verdict="FAILED")
    use(task, "rollback")
    return task


@pytest.mark.parametrize("course", ["going", "undoing"])
def test_a_view_is_what_a_check_makes_of_it(engine: Engine, course: str, request: pytest.FixtureRequest) -> None:
    task = request.getfixturevalue(course)

    views = task_detail(engine, task.id, account="0", silence_seconds=5).subtasks

    assert [one.key for one in views] == list(task.ids)
    assert [_written(one) for one in views] == [_written(Subtask(**_members(one))) for one in views]
    assert [list(vars(one)) for one in views] == [list(Subtask.model_fields)] * len(views)


def _members(view: Subtask) -> dict[str, Any]:
    members = dict(vars(view))
    return {**members, "error": None if members["error"] is None else dict(vars(members["error"]))}


def _written(view: Subtask) -> str:
    return view.model_dump_json(by_alias=True, exclude_none=True)


def test_results_and_errors_are_written_as_they_are(engine: Engine, going: StoredTask) -> None:
    views = {one.key: one for one in task_detail(engine, going.id, account="0", silence_seconds=5).subtasks}

    assert views["done"].result == RESULT
    assert views["allowed"].error is not None
    assert vars(views["allowed"].error) == {"type": "ValueError", "message": "nö\n", "log_line": 7}
    assert (views["waiting"].name, views["waiting"].timeout, views["waiting"].node_type) == (SAID["name"], 3, "SIGNAL")
    assert {one.status for one in views.values()} == {
        *("PENDING", "READY", "RUNNING", "CANCELING", "FAILED", "SUCCESSFUL")
    }


def test_a_task_without_subtasks_has_a_detail(engine: Engine) -> None:
    task = make_task(engine, {})

    assert task_detail(engine, task.id, account="0", silence_seconds=5).subtasks == []
