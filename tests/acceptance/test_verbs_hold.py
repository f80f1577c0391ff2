"""Pause, resume and deadlines on the whole stack: what runs, ends; nothing else begins."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.stack import Attempt, Document, Running, ledger, running, wait_for_runs
from tests.acceptance.verbs import after_beats, operate, refusal, state_of
from tests.eventually import eventually
from tests.invariants import assert_invariants

SLOTS = 3
GRACE_SECONDS = 1.0
LOOK_SECONDS = 1.0
WIDTH = 2_000


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"TASKSERVER_CANCEL_GRACE_SECONDS": str(GRACE_SECONDS)}
    with running(tmp_path_factory.mktemp("hold"), concurrency=SLOTS, settings=settings) as product:
        yield product


def _gate(key: str, directory: Path, *upstreams: str) -> Document:
    arguments = {"directory": str(directory)}
    return {"key": key, "kind": "probe.gate", "upstreams": list(upstreams), "arguments": arguments}


def _begun(product: Running, task: int) -> int:
    [row] = product.rows("SELECT ready + running + canceling AS n FROM task_progress WHERE id = :task", task=task)
    return int(row["n"])


def test_nothing_of_a_paused_wide_task_begins_until_it_is_resumed(product: Running, tmp_path: Path) -> None:
    arguments = {"seconds": 0.003, "ledger": str(tmp_path)}
    wide = {"key": "n", "kind": "probe.span", "foreach": list(range(WIDTH)), "arguments": arguments}
    task = product.submit([wide, {"key": "end", "kind": "builtin.noop", "upstreams": ["n"]}])
    wait_for_runs(tmp_path, 100)

    assert operate(product, task, "pause")["state"] == "SUSPENDED"
    eventually(lambda: not _begun(product, task), within=5, what="what ran has ended")
    ran = len(ledger(tmp_path))
    assert ran < WIDTH, "it had ended before it was paused: nothing is shown"
    after_beats(product)
    assert len(ledger(tmp_path)) == ran
    assert product.detail(task)["state"] == "SUSPENDED"
    assert {one.outcome for one in product.attempts(task)} == {"SUCCESSFUL"}
    assert_invariants(product.engine)

    operate(product, task, "resume")
    assert product.settle(task, within=60) == "SUCCESSFUL"
    assert len(ledger(tmp_path)) == WIDTH, "something ran twice"


def test_what_runs_when_a_task_is_paused_ends_and_what_follows_waits(product: Running, tmp_path: Path) -> None:
    task = product.submit([_gate("a", tmp_path), _gate("b", tmp_path, "a")])
    wait_for_runs(tmp_path, 1)

    operate(product, task, "pause")
    after_beats(product)
    assert state_of(product, task, "a") == "RUNNING"
    (tmp_path / "open").touch()
    eventually(lambda: state_of(product, task, "a") == "SUCCESSFUL", what="a has ended")
    after_beats(product)
    assert state_of(product, task, "b") == "PENDING"
    assert refusal(product, task, "pause")["code"] == 20003

    operate(product, task, "resume")
    product.assert_successful([task])
    assert len(ledger(tmp_path)) == 2


def test_a_task_whose_last_subtask_ends_while_it_is_paused_is_settled(product: Running, tmp_path: Path) -> None:
    task = product.submit([_gate("a", tmp_path)])
    wait_for_runs(tmp_path, 1)
    operate(product, task, "pause")

    (tmp_path / "open").touch()

    assert product.settle(task) == "SUCCESSFUL"
    assert refusal(product, task, "resume")["code"] == 20003


@pytest.mark.chaos
def test_a_paused_task_is_still_paused_after_a_kill_of_server_and_worker(product: Running, tmp_path: Path) -> None:
    task = product.submit([_gate("a", tmp_path), _gate("b", tmp_path, "a")])
    wait_for_runs(tmp_path, 1)
    operate(product, task, "pause")

    before = {part: product.kill(part) for part in ("server", "worker")}
    for part, pid in before.items():
        product.restarted(part, pid)
    eventually(lambda: state_of(product, task, "a") == "PENDING", what="a was rescued")
    after_beats(product)
    assert len(ledger(tmp_path)) == 1

    (tmp_path / "open").touch()
    operate(product, task, "resume")
    product.assert_successful([task])
    assert product.attempts(task)[0] == Attempt("a", 1, "LOST", "worker_lost")


@pytest.mark.parametrize("how", ["asks", "sleeps"])
def test_what_runs_at_the_deadline_is_stopped_and_the_task_has_failed(
    product: Running, tmp_path: Path, how: str
) -> None:
    stop = {"key": "a", "kind": "probe.stop", "arguments": {"how": how, "directory": str(tmp_path)}}
    began = time.monotonic()
    task = product.submit([stop, {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]}], deadlineSeconds=1)

    assert product.settle(task) == "FAILED"

    most = 1 + LOOK_SECONDS + (1 if how == "asks" else GRACE_SECONDS + 2)
    assert 1 <= time.monotonic() - began < most
    detail = product.detail(task)
    assert detail["error"]["type"] == "deadline"
    subtasks = product.subtasks(task)
    assert (subtasks["a"]["status"], subtasks["a"]["operation"]) == ("FAILED", "CANCEL")
    assert subtasks["b"]["status"] == "PENDING"
    assert product.attempts(task) == [Attempt("a", 1, "CANCELED", "cancelled")]
    assert_invariants(product.engine)


def test_a_deadline_is_not_held_up_by_a_pause(product: Running, tmp_path: Path) -> None:
    task = product.submit([_gate("a", tmp_path), _gate("b", tmp_path, "a")], deadlineSeconds=1)
    wait_for_runs(tmp_path, 1)
    operate(product, task, "pause")

    assert product.settle(task) == "FAILED"
    assert product.detail(task)["error"]["type"] == "deadline"


def test_a_deadline_counts_from_the_start_that_was_asked_for(product: Running) -> None:
    start = datetime.now(UTC) + timedelta(seconds=2)
    task = product.submit([{"key": "a", "kind": "builtin.noop"}], startAt=start.isoformat(), deadlineSeconds=1)

    assert product.settle(task) == "SUCCESSFUL"


def test_a_retry_grants_the_deadline_anew(product: Running, tmp_path: Path) -> None:
    task = product.submit(
        [_gate("a", tmp_path), {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]}], deadlineSeconds=2
    )
    assert product.settle(task) == "FAILED"
    (tmp_path / "open").touch()

    operate(product, task, "retry")

    product.assert_successful([task])
    assert [one.outcome for one in product.attempts(task)] == ["CANCELED", "SUCCESSFUL", "SUCCESSFUL"]


def test_a_task_that_meets_its_deadline_is_left_alone(product: Running) -> None:
    task = product.submit([{"key": "a", "kind": "builtin.noop"}], deadlineSeconds=1)
    product.assert_successful([task])

    after = "SELECT 1 FROM tasks WHERE id = :task AND deadline_at < now()"
    eventually(lambda: product.rows(after, task=task), what="its deadline has passed")
    after_beats(product)

    assert product.detail(task)["state"] == "SUCCESSFUL"
    assert not product.rows("SELECT 1 FROM operations WHERE task_id = :task", task=task)
