"""Retry on the whole stack, by operators and by themselves: only what must run again does, and with the right story."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.stack import Attempt, Document, Running, ledger, running
from tests.acceptance.verbs import after_beats, operate, refusal
from tests.eventually import eventually
from tests.invariants import assert_invariants

SLOTS = 2


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("retry"), concurrency=SLOTS) as product:
        yield product


def _fails(key: str, directory: Path, **fields: object) -> Document:
    """Return a subtask that fails until the file `repaired` is in the directory."""
    return {"key": key, "kind": "probe.made", "arguments": {"directory": str(directory), "fails": True}, **fields}


def _repair(directory: Path) -> None:
    (directory / "repaired").touch()


def _attempts_by_key(product: Running, task: int) -> Counter[str]:
    return Counter(one.key for one in product.attempts(task))


def test_a_retry_of_one_of_ten_thousand_runs_it_and_what_follows_and_nothing_else(
    product: Running, tmp_path: Path
) -> None:
    task = product.submit(
        [
            {"key": "n", "kind": "builtin.noop", "foreach": list(range(9_996))},
            _fails("bad", tmp_path, upstreams=["n"]),
            {"key": "after", "kind": "builtin.noop", "upstreams": ["bad"]},
            {"key": "more", "kind": "builtin.noop", "upstreams": ["bad"]},
            {"key": "last", "kind": "builtin.noop", "upstreams": ["after", "more"]},
        ]
    )
    assert product.settle(task, within=60) == "FAILED"
    before = _attempts_by_key(product, task)
    _repair(tmp_path)

    began = time.monotonic()
    operate(product, task, "retry", key="bad")
    assert product.settle(task) == "SUCCESSFUL"

    seconds = time.monotonic() - began
    assert _attempts_by_key(product, task) - before == {"bad": 1, "after": 1, "more": 1, "last": 1}
    assert before.total() == 9_997
    assert [one.outcome for one in product.attempts(task) if one.key == "bad"] == ["FAILED", "SUCCESSFUL"]
    print(f"retry of one of 10,000: {seconds * 1000:.0f} ms")
    assert seconds < 5


def test_a_retry_of_the_task_runs_all_that_failed_and_nothing_that_did_not(product: Running, tmp_path: Path) -> None:
    task = product.submit(
        [
            {"key": "good", "kind": "probe.gate", "arguments": {"directory": str(tmp_path)}},
            {"key": "slow", "kind": "probe.gate", "arguments": {"directory": str(tmp_path)}},
        ]
    )
    (tmp_path / "open").touch()
    product.assert_successful([task])
    task = product.submit(
        [
            {"key": "good", "kind": "builtin.noop"},
            _fails("bad", tmp_path, upstreams=["good"]),
            {"key": "end", "kind": "builtin.noop", "upstreams": ["bad"]},
        ]
    )
    assert product.settle(task) == "FAILED"

    for _ in range(2):
        assert operate(product, task, "retry")["operation"] == "RETRY"
        assert product.settle(task) == "FAILED"
    _repair(tmp_path)
    operate(product, task, "retry")

    product.assert_successful([task])
    assert _attempts_by_key(product, task) == {"good": 1, "bad": 4, "end": 1}
    assert refusal(product, task, "retry")["code"] == 20003


def test_the_idempotency_key_lasts_over_automatic_attempts_and_changes_with_an_operators_retry(
    product: Running, tmp_path: Path
) -> None:
    arguments = {"raises": "OSError", "directory": str(tmp_path)}
    task = product.submit([{"key": "a", "kind": "probe.moody", "arguments": arguments}])
    assert product.settle(task) == "FAILED"

    operate(product, task, "retry", key="a")
    assert product.settle(task) == "FAILED"

    runs = [(int(attempt), key) for _, attempt, key in ledger(tmp_path)]
    assert [attempt for attempt, _ in runs] == [1, 2, 3, 4, 5, 6], "it grants the attempts anew, and counts on"
    keys = [key for _, key in runs]
    assert keys[0] == keys[1] == keys[2] != keys[3] == keys[4] == keys[5]


@pytest.mark.parametrize(
    ("raises", "attempts"),
    [("OSError", 3), ("ConnectionError", 3), ("PermissionError", 1), ("ValueError", 1)],
)
def test_only_exceptions_that_the_kind_names_are_tried_again(
    product: Running, tmp_path: Path, raises: str, attempts: int
) -> None:
    arguments = {"raises": raises, "directory": str(tmp_path)}
    task = product.submit([{"key": "a", "kind": "probe.moody", "arguments": arguments}])

    assert product.settle(task) == "FAILED"
    assert product.attempts(task) == [Attempt("a", number + 1, "FAILED", raises) for number in range(attempts)]


def test_a_timeout_that_the_kind_will_not_have_again_is_final(product: Running, tmp_path: Path) -> None:
    arguments = {"raises": "", "directory": str(tmp_path), "seconds": 30}
    task = product.submit([{"key": "a", "kind": "probe.moody", "arguments": arguments, "timeout": 0.2}])

    assert product.settle(task) == "FAILED"
    assert product.attempts(task) == [Attempt("a", 1, "FAILED", "timeout")]


def test_each_attempt_has_the_whole_timeout(product: Running, tmp_path: Path) -> None:
    """Two attempts that take most of it do not add up."""
    arguments = {"directory": str(tmp_path), "fails": True, "seconds": 0.6}
    limits = {"timeout": 1.0, "maxAttempts": 3, "backoffSeconds": 0.01}
    task = product.submit([{"key": "a", "kind": "probe.made", "arguments": arguments, **limits}])

    assert product.settle(task) == "FAILED"
    assert product.attempts(task) == [Attempt("a", number, "FAILED", "ValueError") for number in (1, 2, 3)]


def test_a_failure_that_is_allowed_lets_go_what_follows_with_null(product: Running, tmp_path: Path) -> None:
    task = product.submit(
        [
            _fails("maybe", tmp_path, allowFailure=True),
            {"key": "sure", "kind": "builtin.echo", "arguments": {"x": 1}},
            {
                "key": "end",
                "kind": "builtin.echo",
                "upstreams": ["maybe", "sure"],
                "arguments": {"maybe": {"$from": "maybe"}, "sure": {"$from": "sure", "path": "/x"}},
            },
        ]
    )

    product.assert_successful([task])
    assert product.results(task)["end"] == {"maybe": None, "sure": 1}
    detail = product.detail(task)
    assert (detail["status"], product.subtasks(task)["maybe"]["status"]) == ("SUCCESSFUL", "FAILED")
    assert refusal(product, task, "retry", key="maybe")["code"] == 20003


def test_an_allowed_failure_in_a_list_is_null_in_its_place(product: Running) -> None:
    task = product.submit(
        [
            {
                "key": "part",
                "kind": "builtin.fail",
                "foreach": [0, 1, 0],
                "allowFailure": True,
                "arguments": {"times": {"$item": ""}},
            },
            {"key": "end", "kind": "builtin.echo", "upstreams": ["part"], "arguments": {"parts": {"$from": "part"}}},
        ]
    )

    product.assert_successful([task])
    assert product.results(task)["end"] == {"parts": [None, None, None]}
    assert [one.outcome for one in product.attempts(task)] == ["SUCCESSFUL", "FAILED", "SUCCESSFUL", "SUCCESSFUL"]


def test_what_waits_to_be_tried_again_waits_on_while_another_has_failed(product: Running, tmp_path: Path) -> None:
    again = {"key": "again", "kind": "builtin.fail", "arguments": {"times": 1}, "maxAttempts": 2, "backoffSeconds": 1}
    task = product.submit([again, _fails("bad", tmp_path)])
    assert product.settle(task) == "FAILED"
    assert product.attempts(task) == [
        Attempt("again", 1, "FAILED", "RuntimeError"),
        Attempt("bad", 1, "FAILED", "ValueError"),
    ]
    due = "SELECT 1 FROM subtasks WHERE task_id = :task AND scheduled_at > now()"
    eventually(lambda: not product.rows(due, task=task), what="its time has come")
    after_beats(product)
    assert _attempts_by_key(product, task) == {"again": 1, "bad": 1}
    _repair(tmp_path)

    operate(product, task, "retry", key="bad")

    product.assert_successful([task])
    assert _attempts_by_key(product, task) == {"again": 2, "bad": 2}
    assert_invariants(product.engine)


def test_a_named_retry_goes_on_by_itself_although_another_has_failed(product: Running, tmp_path: Path) -> None:
    limits = {"maxAttempts": 2, "backoffSeconds": 0.3}
    task = product.submit(
        [
            {"key": "again", "kind": "builtin.fail", "arguments": {"times": 3}, **limits},
            _fails("bad", tmp_path, upstreams=["again"]),
        ]
    )
    assert product.settle(task) == "FAILED"

    operate(product, task, "retry", key="again")
    assert product.settle(task) == "FAILED"
    assert [one.attempt for one in product.attempts(task) if one.key == "again"] == [1, 2, 3, 4]
    assert product.subtasks(task)["again"]["status"] == "SUCCESSFUL"
    assert product.subtasks(task)["bad"]["status"] == "FAILED"


def test_a_skipped_subtask_frees_what_follows(product: Running, tmp_path: Path) -> None:
    task = product.submit(
        [
            _fails("bad", tmp_path),
            {"key": "end", "kind": "builtin.echo", "upstreams": ["bad"], "arguments": {"bad": {"$from": "bad"}}},
        ]
    )
    assert product.settle(task) == "FAILED"

    operate(product, task, "skip", key="bad")

    product.assert_successful([task])
    assert product.results(task) == {"end": {"bad": None}}
    skipped = product.subtasks(task)["bad"]
    assert (skipped["status"], skipped["operation"]) == ("SUCCESSFUL", "SKIP")
