"""Rollback on the whole stack: what was made is unmade in reverse order, by handlers that have what they need."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.stack import Document, Running, ledger, running, wait_for_runs
from tests.acceptance.verbs import operate, refusal, subtask_id
from tests.eventually import eventually
from tests.invariants import assert_invariants

SLOTS = 4


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"TASKSERVER_CANCEL_GRACE_SECONDS": "1"}
    with running(tmp_path_factory.mktemp("rollback"), concurrency=SLOTS, settings=settings) as product:
        yield product


@dataclass(frozen=True)
class Unmade:
    """One run of a rollback handler."""

    key: str
    operation: str
    attempt: int
    began: float
    ended: float
    given: Any


def _made(key: str, directory: Path, *upstreams: str, **arguments: object) -> Document:
    document = {"key": key, "kind": "probe.made", "upstreams": list(upstreams)}
    return {**document, "arguments": {"directory": str(directory), **arguments}}


def _bad(directory: Path, *upstreams: str) -> Document:
    return _made("bad", directory, *upstreams, fails=True)


def _unmade(directory: Path) -> dict[str, Unmade]:
    runs = [line for line in ledger(directory) if line[0] == "unmake"]
    found = {
        key: Unmade(key, operation, int(attempt), float(began), float(ended), json.loads(" ".join(given)))
        for _, key, operation, attempt, began, ended, *given in runs
    }
    assert len(found) == len(runs), "something was undone twice"
    return found


def _fail(product: Running, *subtasks: Document, **fields: object) -> int:
    task = product.submit(subtasks, **fields)
    assert product.settle(task) == "FAILED"
    return task


def test_a_chain_and_a_diamond_are_undone_backwards_and_in_parallel(product: Running, tmp_path: Path) -> None:
    task = _fail(
        product,
        _made("a", tmp_path),
        _made("b", tmp_path, "a"),
        _made("left", tmp_path, "b", seconds=0.7),
        _made("right", tmp_path, "b", seconds=0.7),
        _made("join", tmp_path, "left", "right"),
        _bad(tmp_path, "join"),
        _made("never", tmp_path, "bad"),
    )

    answer = operate(product, task, "rollback")
    assert (answer["status"], answer["operation"]) == ("RUNNING", "ROLLBACK")
    assert product.settle(task) == "ROLLED_BACK"

    unmade = _unmade(tmp_path)
    assert unmade.keys() == {"bad", "join", "left", "right", "b", "a"}
    for first, then in [
        ("bad", "join"),
        ("join", "left"),
        ("join", "right"),
        ("left", "b"),
        ("right", "b"),
        ("b", "a"),
    ]:
        assert unmade[first].ended <= unmade[then].began, f"{then} was undone before {first}"
    assert max(unmade["left"].began, unmade["right"].began) < min(unmade["left"].ended, unmade["right"].ended)
    assert {one.operation for one in unmade.values()} == {"ROLLBACK"}
    assert {one.attempt for one in unmade.values()} == {2}


def test_what_is_rolled_back_is_told_as_ocp_tells_it(product: Running, tmp_path: Path) -> None:
    task = _fail(product, _made("a", tmp_path), _bad(tmp_path, "a"))

    operate(product, task, "rollback")
    product.settle(task)

    detail = product.detail(task)
    assert (detail["status"], detail["operation"], detail["state"]) == ("SUCCESSFUL", "ROLLBACK", "ROLLED_BACK")
    assert detail["rolledBack"] is True
    assert {one["status"] for one in detail["subtasks"]} == {"PENDING"}
    assert {one["operation"] for one in detail["subtasks"]} == {"ROLLBACK"}
    assert refusal(product, task, "rollback")["code"] == 20003
    assert refusal(product, task, "retry")["code"] == 20003


def test_a_rollback_handler_has_the_arguments_and_the_results_of_upstreams(product: Running, tmp_path: Path) -> None:
    task = _fail(
        product,
        _made("a", tmp_path, given={"$arg": "/colour"}),
        _made("b", tmp_path, "a", given=[{"$from": "a"}, {"$arg": "/colour"}]),
        _bad(tmp_path, "b"),
        arguments={"colour": "green"},
    )

    operate(product, task, "rollback")
    assert product.settle(task) == "ROLLED_BACK"

    unmade = _unmade(tmp_path)
    assert unmade["a"].given == "green"
    assert unmade["b"].given == ["made a", "green"]


def test_undoing_is_an_attempt_of_its_own_with_its_own_log(product: Running, tmp_path: Path) -> None:
    task = _fail(product, _made("a", tmp_path), _bad(tmp_path, "a"))

    operate(product, task, "rollback")
    product.settle(task)

    log = product.log(task, "a")
    before, _, after = log.partition("############{ROLLBACK}{")
    assert "############{EXECUTE}{" in before
    assert "unmaking a" not in before
    assert "unmaking a" in after
    url = f"/api/v2/tasks/instances/{task}/subtasks/{subtask_id(product, task, 'a')}"
    attempts = product.http.get(url).json()["data"]["attempts"]
    assert [(one["operation"], one["status"]) for one in attempts] == [
        ("EXECUTE", "SUCCESSFUL"),
        ("ROLLBACK", "SUCCESSFUL"),
    ]


def test_a_failed_rollback_is_gone_on_with_when_the_fault_is_gone(product: Running, tmp_path: Path) -> None:
    task = _fail(product, _made("a", tmp_path), _made("b", tmp_path, "a"), _bad(tmp_path, "b"))
    (tmp_path / "stuck-b").touch()

    operate(product, task, "rollback")
    assert product.settle(task) == "FAILED"
    detail = product.detail(task)
    assert (detail["status"], detail["operation"], detail["rolledBack"]) == ("FAILED", "ROLLBACK", False)
    assert product.subtasks(task)["b"]["status"] == "FAILED"
    assert _unmade(tmp_path).keys() == {"bad"}
    assert "b cannot be undone" in detail["error"]["message"]
    assert refusal(product, task, "retry")["code"] == 20003
    assert refusal(product, task, "retry", key="b")["code"] == 20003
    assert_invariants(product.engine)

    (tmp_path / "stuck-b").unlink()
    operate(product, task, "rollback")
    assert product.settle(task) == "ROLLED_BACK"
    assert _unmade(tmp_path).keys() == {"bad", "b", "a"}
    assert _unmade(tmp_path)["b"].attempt == 3


def test_a_step_that_cannot_be_undone_is_skipped(product: Running, tmp_path: Path) -> None:
    task = _fail(product, _made("a", tmp_path), _made("b", tmp_path, "a"), _bad(tmp_path, "b"))
    (tmp_path / "stuck-b").touch()
    operate(product, task, "rollback")
    assert product.settle(task) == "FAILED"

    operate(product, task, "skip", key="b")

    assert product.settle(task) == "ROLLED_BACK"
    assert _unmade(tmp_path).keys() == {"bad", "a"}
    assert {one["status"] for one in product.detail(task)["subtasks"]} == {"PENDING"}
    assert product.subtasks(task)["b"]["operation"] == "SKIP"


@pytest.mark.parametrize("of", ["subtask", "task"])
def test_a_prohibited_rollback_names_what_prohibits_it(product: Running, tmp_path: Path, of: str) -> None:
    prohibited = {"prohibitRollback": True}
    a = {**_made("a", tmp_path), **(prohibited if of == "subtask" else {})}
    never = {**_made("never", tmp_path, "bad"), "prohibitRollback": True}
    task = _fail(product, a, _bad(tmp_path, "a"), never, **(prohibited if of == "task" else {}))

    error = refusal(product, task, "rollback")

    assert error["code"] == 20004
    assert ("'a'" in error["message"]) == (of == "subtask")
    assert error["target"] == ("a" if of == "subtask" else str(task))
    assert product.detail(task)["state"] == "FAILED"
    assert not _unmade(tmp_path)


def test_what_a_prohibiting_subtask_that_never_began_says_does_not_count(product: Running, tmp_path: Path) -> None:
    never = {**_made("never", tmp_path, "bad"), "prohibitRollback": True}
    task = _fail(product, _made("a", tmp_path), _bad(tmp_path, "a"), never)

    operate(product, task, "rollback")

    assert product.settle(task) == "ROLLED_BACK"


def test_kinds_that_nothing_undoes_are_rolled_back_at_once(product: Running) -> None:
    task = _fail(
        product,
        {"key": "a", "kind": "builtin.noop"},
        {"key": "bad", "kind": "builtin.fail", "upstreams": ["a"], "arguments": {}},
    )

    answer = operate(product, task, "rollback")

    assert (answer["state"], answer["status"], answer["rolledBack"]) == ("ROLLED_BACK", "SUCCESSFUL", True)
    assert {one["status"] for one in answer["subtasks"]} == {"PENDING"}
    assert len(product.attempts(task)) == 2


def test_a_rollback_of_thousands_is_gone_on_with_by_the_server(product: Running) -> None:
    task = _fail(
        product,
        {"key": "n", "kind": "builtin.noop", "foreach": list(range(6_000))},
        {"key": "bad", "kind": "builtin.fail", "upstreams": ["n"], "arguments": {}},
    )

    answer = operate(product, task, "rollback")

    assert (answer["state"], answer["operation"]) == ("RUNNING", "ROLLBACK")
    assert product.settle(task) == "ROLLED_BACK"
    assert len(product.attempts(task)) == 6_001
    assert_invariants(product.engine)


def test_a_wide_task_is_rolled_back_with_all_hands(product: Running, tmp_path: Path) -> None:
    task = _fail(
        product,
        _made("first", tmp_path),
        {**_made("part", tmp_path, "first"), "foreach": list(range(200))},
        _bad(tmp_path, "part"),
    )

    operate(product, task, "rollback")

    assert product.settle(task) == "ROLLED_BACK"
    unmade = _unmade(tmp_path)
    assert len(unmade) == 202
    assert max(one.ended for one in unmade.values()) == unmade["first"].ended
    assert min(one.began for one in unmade.values()) == unmade["bad"].began


def test_a_rollback_step_has_the_timeout_and_the_attempts_of_its_subtask(product: Running, tmp_path: Path) -> None:
    limits = {"timeout": 0.3, "maxAttempts": 2, "backoffSeconds": 0.1}
    slow = {**_made("a", tmp_path), **limits}
    task = _fail(product, slow, _bad(tmp_path, "a"))
    (tmp_path / "stuck-a").touch()

    operate(product, task, "rollback")

    assert product.settle(task) == "FAILED"
    outcomes = [(one.attempt, one.outcome) for one in product.attempts(task) if one.key == "a"]
    assert outcomes == [(1, "SUCCESSFUL"), (2, "FAILED"), (3, "FAILED")]


def test_a_rollback_step_past_its_timeout_fails(product: Running, tmp_path: Path) -> None:
    """The file makes it take long to undo."""
    limited = {**_made("a", tmp_path), "timeout": 0.5}
    task = _fail(product, limited, _bad(tmp_path, "a"))
    (tmp_path / "slow-a").touch()

    operate(product, task, "rollback")

    assert product.settle(task) == "FAILED"
    [step] = [one for one in product.attempts(task) if one.key == "a" and one.attempt == 2]
    assert (step.outcome, step.error_type) == ("FAILED", "timeout")


def test_a_cancelled_rollback_step_has_failed_and_can_be_rolled_back_again(product: Running, tmp_path: Path) -> None:
    task = _fail(product, _made("a", tmp_path), _bad(tmp_path, "a"))
    (tmp_path / "slow-a").touch()
    operate(product, task, "rollback")
    eventually(lambda: product.subtasks(task)["a"]["status"] == "RUNNING", what="a is being undone")

    operate(product, task, "cancel", key="a")
    assert product.settle(task) == "FAILED"
    assert product.subtasks(task)["a"]["operation"] == "CANCEL"

    (tmp_path / "slow-a").unlink()
    operate(product, task, "rollback")
    assert product.settle(task) == "ROLLED_BACK"
    assert _unmade(tmp_path).keys() == {"bad", "a"}


def test_a_cancelled_rollback_is_revoked(product: Running, tmp_path: Path) -> None:
    task = _fail(product, _made("a", tmp_path), _made("b", tmp_path, "a"), _bad(tmp_path, "b"))
    (tmp_path / "slow-b").touch()
    operate(product, task, "rollback")
    eventually(lambda: product.subtasks(task)["b"]["status"] == "RUNNING", what="b is being undone")

    operate(product, task, "cancel")

    assert product.settle(task) == "REVOKED"
    assert _unmade(tmp_path).keys() == {"bad"}
    assert_invariants(product.engine)


def test_a_worker_that_dies_while_it_undoes_does_it_again(product: Running, tmp_path: Path) -> None:
    task = _fail(product, _made("a", tmp_path), _bad(tmp_path, "a"))
    (tmp_path / "slow-a").touch()
    operate(product, task, "rollback")
    wait_for_runs(tmp_path, 4)  # two were made, one unmade, and the next takes long
    before = product.kill("worker")
    (tmp_path / "slow-a").unlink()

    product.restarted("worker", before)

    assert product.settle(task) == "ROLLED_BACK"
    assert [one.outcome for one in product.attempts(task) if one.key == "a"] == ["SUCCESSFUL", "LOST", "SUCCESSFUL"]
