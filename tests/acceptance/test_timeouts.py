"""A handler past its timeout ends, whether it likes to or not; retries wait in the database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from tests.acceptance.stack import Attempt, Document, Running, running
from tests.eventually import eventually

SLOTS = 2
_TIMEOUT_SECONDS = 0.5
_KILL_SECONDS = 2.0 + 0.5  # what a deaf handler gets on top of its timeout, and a look to notice it


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"TASKSERVER_DEAD_AFTER_SECONDS": "60"}  # whoever is brought back here, is so by his process' successor
    with running(tmp_path_factory.mktemp("timeouts"), concurrency=SLOTS, settings=settings) as product:
        yield product


@contextmanager
def _beat_that_hangs(product: Running) -> Iterator[None]:
    """Let the worker's beat wait in PostgreSQL for the block."""
    waits = "SELECT pid FROM pg_stat_activity WHERE application_name = 'taskserver-worker-main' AND wait_event_type = 'Lock'"
    with product.engine.begin() as connection:
        connection.execute(text("SELECT id FROM workers WHERE stopped_at IS NULL FOR UPDATE"))
        eventually(lambda: product.rows(waits), what="the beat waits")
        yield


def _hang(how: str, **fields: object) -> list[Document]:
    return [{"key": "a", "kind": "probe.hang", "arguments": {"how": how}, "timeout": _TIMEOUT_SECONDS, **fields}]


def _run_seconds(product: Running, task: int) -> list[float]:
    rows = product.rows(
        "SELECT extract(epoch FROM finished_at - started_at)::float AS seconds FROM subtask_attempts"
        " WHERE task_id = :task ORDER BY attempt",
        task=task,
    )
    return [row["seconds"] for row in rows]


def test_a_handler_that_sleeps_past_its_timeout_fails_at_it(product: Running) -> None:
    task = product.submit(_hang("asleep"))

    assert product.settle(task) == "FAILED"
    assert product.attempts(task) == [Attempt("a", 1, "FAILED", "timeout")]
    [seconds] = _run_seconds(product, task)
    assert _TIMEOUT_SECONDS <= seconds < _TIMEOUT_SECONDS + 1
    assert "timeout of 0.5 s" in product.log(task, "a")


@pytest.mark.parametrize("how", ["deaf", "frozen"])
def test_a_handler_that_cannot_be_interrupted_is_killed_and_its_place_filled(product: Running, how: str) -> None:
    began = time.monotonic()
    task = product.submit(_hang(how))

    assert product.settle(task) == "FAILED"
    assert _TIMEOUT_SECONDS + 1 < time.monotonic() - began < _TIMEOUT_SECONDS + _KILL_SECONDS + 2
    assert product.attempts(task) == [Attempt("a", 1, "FAILED", "timeout")]
    wide = product.submit([{"key": "n", "kind": "probe.span", "foreach": [0, 1], "arguments": {"seconds": 0.3}}])
    product.assert_successful([wide])
    first, second = product.results(wide).values()
    assert max(first[0], second[0]) < min(first[1], second[1]), "a place is still empty"


def test_a_handler_is_killed_at_its_timeout_while_the_beat_waits_for_the_database(product: Running) -> None:
    with _beat_that_hangs(product):
        began = time.monotonic()
        task = product.submit(_hang("frozen"))

        assert product.settle(task) == "FAILED"
        seconds = time.monotonic() - began

    assert seconds < _TIMEOUT_SECONDS + _KILL_SECONDS + 2
    assert product.attempts(task) == [Attempt("a", 1, "FAILED", "timeout")]


def test_a_killed_handler_runs_again_while_attempts_are_left(product: Running) -> None:
    task = product.submit(_hang("frozen", maxAttempts=2, backoffSeconds=0.2))

    product.assert_successful([task])
    assert product.attempts(task) == [Attempt("a", 1, "FAILED", "timeout"), Attempt("a", 2, "SUCCESSFUL", None)]


@pytest.mark.parametrize("how", ["sleeps", "computes"])
def test_a_timeout_that_the_kind_does_not_retry_is_final_however_it_ended(product: Running, how: str) -> None:
    task = product.submit([{"key": "a", "kind": "probe.final", "arguments": {"how": how}}])

    assert product.settle(task) == "FAILED"
    assert product.attempts(task) == [Attempt("a", 1, "FAILED", "timeout")]


def test_a_timeout_counts_as_a_failure_and_is_retried(product: Running) -> None:
    task = product.submit(_hang("asleep", maxAttempts=2, backoffSeconds=0.1))

    product.assert_successful([task])
    assert product.attempts(task) == [Attempt("a", 1, "FAILED", "timeout"), Attempt("a", 2, "SUCCESSFUL", None)]


def test_what_a_frozen_process_had_not_begun_comes_back_uncharged(product: Running) -> None:
    quick = product.submit([{"key": "n", "kind": "probe.span", "foreach": list(range(40)), "arguments": {}}])
    product.assert_successful([quick])
    numbers = list(range(60))

    task = product.submit(
        [
            *({"key": f"n{index}", "kind": "probe.span", "arguments": {}} for index in numbers[:4]),
            {
                "key": "a",
                "kind": "probe.hang",
                "arguments": {"how": "frozen"},
                "timeout": _TIMEOUT_SECONDS,
                "maxAttempts": 2,
            },
            *({"key": f"n{index}", "kind": "probe.span", "arguments": {}} for index in numbers[4:]),
        ]
    )

    product.assert_successful([task])
    attempts = product.attempts(task)
    assert [one for one in attempts if one.outcome != "SUCCESSFUL"] == [Attempt("a", 1, "FAILED", "timeout")]
    assert sorted(one.key for one in attempts if one.key != "a") == sorted(f"n{index}" for index in numbers)


def test_a_retry_waits_its_back_off_in_the_database_and_holds_no_slot(product: Running) -> None:
    task = product.submit(
        [{"key": "a", "kind": "builtin.fail", "arguments": {"times": 2}, "maxAttempts": 3, "backoffSeconds": 1}]
    )
    waiting = "SELECT scheduled_at FROM subtasks WHERE task_id = :task AND state = 'PENDING' AND scheduled_at > now()"
    eventually(lambda: product.rows(waiting, task=task), what="the retry waits")
    product.redis.flushall()  # nothing of it is there

    meanwhile = product.submit([{"key": "n", "kind": "probe.span", "foreach": [0, 1], "arguments": {}}])
    product.assert_successful([meanwhile, task])

    starts = product.rows(
        "SELECT extract(epoch FROM started_at - lag(finished_at) OVER (ORDER BY attempt))::float AS pause"
        " FROM subtask_attempts WHERE task_id = :task ORDER BY attempt",
        task=task,
    )
    _, first, second = (row["pause"] for row in starts)
    assert 0.5 <= first < 1.5 + 1.5
    assert 1.0 <= second < 3.0 + 1.5
    assert [one.outcome for one in product.attempts(task)] == ["FAILED", "FAILED", "SUCCESSFUL"]
