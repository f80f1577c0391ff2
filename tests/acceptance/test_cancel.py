"""Cancel on the whole stack: what cooperates stops at once, what does not is killed when the grace is over."""

import os
import re
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.acceptance.stack import Attempt, Document, Running, ledger, running, wait_for_runs
from tests.acceptance.verbs import after_beats, is_taken, operate, refusal, state_of
from tests.eventually import eventually
from tests.invariants import assert_invariants

SLOTS = 3
GRACE_SECONDS = 1.0
KILLED_WITHIN_SECONDS = GRACE_SECONDS + 2
ASKED_WITHIN_SECONDS = 1.0
STUBBORN = ["ignores", "computes"]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"TASKSERVER_CANCEL_GRACE_SECONDS": str(GRACE_SECONDS)}
    with running(tmp_path_factory.mktemp("cancel"), concurrency=SLOTS, settings=settings) as product:
        yield product


def _stop(key: str, how: str, directory: Path, **fields: object) -> Document:
    return {"key": key, "kind": "probe.stop", "arguments": {"how": how, "directory": str(directory)}, **fields}


def _cancel_and_see(product: Running, task: int, directory: Path) -> tuple[float, Document]:
    """Cancel the subtask `a` once it runs; return how long it took to stop, and the subtask."""
    wait_for_runs(directory, 1)
    operate(product, task, "cancel", key="a")
    began = time.monotonic()
    assert product.subtasks(task)["a"]["status"] in {"CANCELING", "FAILED"}
    stopped = eventually(
        lambda: (one := product.subtasks(task)["a"])["status"] == "FAILED" and one,
        within=KILLED_WITHIN_SECONDS + 10,
        what="a has stopped",
    )
    return time.monotonic() - began, stopped


def test_a_handler_that_asks_stops_within_a_second_and_its_log_tells(product: Running, tmp_path: Path) -> None:
    task = product.submit([_stop("a", "asks", tmp_path), {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]}])

    seconds, stopped = _cancel_and_see(product, task, tmp_path)

    assert seconds < ASKED_WITHIN_SECONDS
    assert stopped["operation"] == "CANCEL"
    assert stopped["error"]["type"] == "cancelled"
    assert product.attempts(task) == [Attempt("a", 1, "CANCELED", "cancelled")]
    assert "a is at work" in product.log(task, "a")
    assert "asked to stop" in product.log(task, "a")
    assert product.settle(task) == "FAILED"
    assert product.subtasks(task)["b"]["status"] == "PENDING"


@pytest.mark.parametrize("how", STUBBORN)
def test_a_handler_that_goes_on_is_killed_when_the_grace_is_over(product: Running, how: str, tmp_path: Path) -> None:
    task = product.submit([_stop("a", how, tmp_path)])

    seconds, stopped = _cancel_and_see(product, task, tmp_path)

    assert GRACE_SECONDS - 0.1 <= seconds < KILLED_WITHIN_SECONDS
    assert stopped["operation"] == "CANCEL"
    assert stopped["error"]["type"] == "cancelled"
    assert "killed" in stopped["error"]["message"]
    assert "was killed" in product.log(task, "a")
    assert product.attempts(task) == [Attempt("a", 1, "CANCELED", "cancelled")]
    assert product.settle(task) == "FAILED"
    assert not _lives(int(ledger(tmp_path)[0][2]))


def test_a_handler_that_does_not_ask_is_interrupted_before_the_grace_is_over_and_cleans_up(
    product: Running, tmp_path: Path
) -> None:
    task = product.submit([_stop("a", "cleans", tmp_path)])

    seconds, stopped = _cancel_and_see(product, task, tmp_path)

    assert GRACE_SECONDS / 2 - 0.1 <= seconds < GRACE_SECONDS
    assert (stopped["operation"], stopped["error"]["type"]) == ("CANCEL", "cancelled")
    assert "interrupted" in stopped["error"]["message"]
    assert "a has cleaned up" in product.log(task, "a")
    assert "swallowed" not in product.log(task, "a")
    assert product.attempts(task) == [Attempt("a", 1, "CANCELED", "cancelled")]
    assert product.settle(task) == "FAILED"
    assert _lives(int(ledger(tmp_path)[0][2])), "its process was killed"


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_program_that_a_killed_handler_waits_for_ends_with_it(product: Running, tmp_path: Path) -> None:
    task = product.submit([_stop("a", "spawns", tmp_path)])
    program = int(eventually(lambda: re.search("started ([0-9]+)", product.log(task, "a")), what="it runs")[1])
    assert _lives(program)

    seconds, _ = _cancel_and_see(product, task, tmp_path)

    assert seconds < KILLED_WITHIN_SECONDS
    eventually(lambda: not _lives(program), what="the program has ended")


def test_a_handler_that_returns_after_the_request_has_failed_all_the_same(product: Running, tmp_path: Path) -> None:
    task = product.submit([_stop("a", "returns", tmp_path), _stop("b", "asks", tmp_path, upstreams=["a"])])

    seconds, stopped = _cancel_and_see(product, task, tmp_path)

    assert seconds < ASKED_WITHIN_SECONDS
    assert (stopped["status"], stopped["operation"]) == ("FAILED", "CANCEL")
    assert stopped["error"]["type"] == "cancelled"
    assert product.attempts(task) == [Attempt("a", 1, "CANCELED", "cancelled")]
    assert product.results(task) == {}
    assert product.settle(task) == "FAILED"


@pytest.mark.parametrize("how", ["asks", "sleeps"])
def test_what_was_cancelled_can_be_retried_on_the_same_process(product: Running, how: str, tmp_path: Path) -> None:
    """The old request must not stop the new attempt, nor its grace kill it."""
    task = product.submit([_stop("a", how, tmp_path)])
    _cancel_and_see(product, task, tmp_path)
    assert product.settle(task) == "FAILED"

    for run in range(2, 5):  # each of the processes may get it
        operate(product, task, "retry", key="a")
        wait_for_runs(tmp_path, run)
        after_beats(product)
        assert state_of(product, task, "a") == "RUNNING"
        _cancel_again(product, task)

    assert [one.outcome for one in product.attempts(task)] == ["CANCELED"] * 4
    assert product.settle(task) == "FAILED"


def _cancel_again(product: Running, task: int) -> None:
    operate(product, task, "cancel", key="a")
    eventually(lambda: product.subtasks(task)["a"]["status"] == "FAILED", what="a has stopped again")


@pytest.mark.parametrize("how", ["asks", "sleeps", "computes"])
def test_siblings_in_the_unit_of_a_cancelled_one_are_neither_lost_nor_charged(
    product: Running, how: str, tmp_path: Path
) -> None:
    """All its siblings are quick and come with it in the same claims; they end in their first attempt."""
    arguments = {"how": "asks", "directory": str(tmp_path), "seconds": 0}
    product.assert_successful(  # so that the worker takes many at once
        [product.submit([{"key": "n", "kind": "probe.stop", "foreach": list(range(60)), "arguments": arguments}])]
    )
    before = len(ledger(tmp_path))

    task = product.submit(
        [
            *(_quick(f"n{index}", tmp_path) for index in range(20)),
            _stop("a", how, tmp_path, allowFailure=True),
            *(_quick(f"n{index}", tmp_path) for index in range(20, 60)),
            {"key": "end", "kind": "builtin.noop", "upstreams": ["a", *(f"n{index}" for index in range(60))]},
        ]
    )
    eventually(lambda: any(key == "a" for key, *_ in ledger(tmp_path)[before:]), what="a runs")
    operate(product, task, "cancel", key="a")

    product.assert_successful([task])
    attempts = product.attempts(task)
    assert [one for one in attempts if one.outcome != "SUCCESSFUL"] == [Attempt("a", 1, "CANCELED", "cancelled")]
    expected = ["end", *(f"n{index}" for index in range(60))]
    assert sorted(one.key for one in attempts if one.key != "a") == sorted(expected)
    assert {one.attempt for one in attempts} == {1}


def test_what_waits_in_a_process_that_computes_can_be_cancelled_before_that_ends(
    product: Running, tmp_path: Path
) -> None:
    """It came in one claim with code that holds the interpreter: its process cannot even say that it has not begun."""
    arguments = {"how": "asks", "directory": str(tmp_path), "seconds": 0}
    product.assert_successful(  # so that the worker takes many at once
        [product.submit([{"key": "n", "kind": "probe.stop", "foreach": list(range(60)), "arguments": arguments}])]
    )
    before = len(ledger(tmp_path))
    task = product.submit(
        [
            *(_quick(f"n{index}", tmp_path) for index in range(20)),
            _stop("a", "computes", tmp_path),
            *(_quick(f"n{index}", tmp_path) for index in range(20, 60)),
        ]
    )
    eventually(lambda: any(key == "a" for key, *_ in ledger(tmp_path)[before:]), what="a runs")
    claimed = eventually(lambda: _behind(product, task), what="nothing else runs but what waits behind it")

    operate(product, task, "cancel", key=claimed)
    eventually(lambda: state_of(product, task, claimed) == "FAILED", within=5, what="it has ended")
    assert state_of(product, task, "a") == "RUNNING"
    assert "before it began" in product.log(task, claimed)

    operate(product, task, "cancel")
    assert product.settle(task) == "REVOKED"
    assert not [key for key, *_ in ledger(tmp_path)[before:] if key == claimed], "it was begun"


def _behind(product: Running, task: int) -> str | None:
    """Return the last of those that have a claim together with `a`."""
    rows = product.rows(
        "SELECT d.key, s.claim FROM subtasks AS s JOIN subtask_specs AS d USING (id)"
        " WHERE s.task_id = :task AND s.state = 'RUNNING' ORDER BY s.id",
        task=task,
    )
    claims = {row["key"]: row["claim"] for row in rows}
    together = [key for key, claim in claims.items() if claim == claims.get("a") and key != "a"]
    return together[-1] if together and len(set(claims.values())) == 1 else None


def _quick(key: str, directory: Path) -> Document:
    return {
        "key": key,
        "kind": "probe.stop",
        "arguments": {"how": "asks", "directory": str(directory), "seconds": 0},
    }


@pytest.mark.parametrize("how", ["asks", "computes"])
def test_a_task_with_thousands_waiting_is_revoked_and_nothing_begins_any_more(
    product: Running, how: str, tmp_path: Path
) -> None:
    task = product.submit([_stop("part", how, tmp_path, foreach=list(range(3000)))])
    wait_for_runs(tmp_path, SLOTS)

    answer = operate(product, task, "cancel")
    began = time.monotonic()
    assert product.settle(task) == "REVOKED"

    limit = ASKED_WITHIN_SECONDS if how == "asks" else KILLED_WITHIN_SECONDS
    assert time.monotonic() - began < limit
    assert answer["operation"] == "CANCEL"
    assert answer["state"] in {"RUNNING", "REVOKED"}
    assert _began_after_the_verb(product, task) == []
    assert len(ledger(tmp_path)) == SLOTS, "what was claimed and had not begun was run"
    attempts = product.attempts(task)
    assert {one.outcome for one in attempts} == {"CANCELED"}
    states = product.rows(
        "SELECT state, count(*)::int AS n FROM subtasks WHERE task_id = :task GROUP BY state", task=task
    )
    counts = {row["state"]: row["n"] for row in states}
    assert counts == {"FAILED": len(attempts), "PENDING": 3000 - len(attempts)}
    assert_invariants(product.engine)


def _began_after_the_verb(product: Running, task: int) -> list[tuple[datetime, datetime]]:
    rows = product.rows(
        "SELECT a.started_at, o.created_at FROM subtask_attempts AS a JOIN operations AS o ON o.task_id = a.task_id"
        " WHERE a.task_id = :task AND o.verb = 'cancel' AND a.started_at > o.created_at",
        task=task,
    )
    return [(row["started_at"], row["created_at"]) for row in rows]


def test_cancelling_a_wide_task_of_quick_subtasks_stops_it_in_its_stride(product: Running, tmp_path: Path) -> None:
    arguments = {"seconds": 0, "ledger": str(tmp_path)}
    quick = {"key": "n", "kind": "probe.span", "foreach": list(range(5000)), "arguments": arguments}
    task = product.submit([quick])
    wait_for_runs(tmp_path, 200)

    operate(product, task, "cancel")
    began = time.monotonic()
    answered = len(ledger(tmp_path))
    assert product.settle(task) == "REVOKED"
    ran = len(ledger(tmp_path))

    assert time.monotonic() - began < ASKED_WITHIN_SECONDS
    assert ran < 5000
    assert ran - answered <= SLOTS, "more than one in each process began after the answer"
    product.idle()
    assert len(ledger(tmp_path)) == ran, "something ran in a revoked task"
    assert_invariants(product.engine)


def test_a_second_cancel_is_refused_and_changes_nothing(product: Running, tmp_path: Path) -> None:
    task = product.submit([_stop("a", "sleeps", tmp_path)])
    wait_for_runs(tmp_path, 1)
    operate(product, task, "cancel")

    for _ in range(2):
        assert refusal(product, task, "cancel")["code"] == 20003
        assert refusal(product, task, "cancel", key="a")["code"] == 20003
        assert refusal(product, task, "pause")["code"] == 20003
        assert refusal(product, task, "retry", key="a")["code"] == 20003

    assert product.settle(task) == "REVOKED"
    assert len(product.rows("SELECT 1 FROM operations WHERE task_id = :task", task=task)) == 1


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("dies_too", [False, True])
def test_a_cancel_that_a_dead_worker_never_heard_is_honoured(
    product: Running, tmp_path: Path, *, whole: bool, dies_too: bool
) -> None:
    """Also when PostgreSQL is killed before anybody has seen it."""
    task = product.submit([_stop("a", "ignores", tmp_path)])
    wait_for_runs(tmp_path, 1)
    before = product.kill("worker")

    operate(product, task, "cancel", key=None if whole else "a")
    if dies_too:
        database = product.kill("postgres")
        product.restarted("postgres", database)
        product.engine.dispose()

    product.restarted("worker", before)
    assert product.settle(task) == ("REVOKED" if whole else "FAILED")
    assert product.attempts(task) == [Attempt("a", 1, "CANCELED", "worker_lost")]
    assert product.subtasks(task)["a"]["operation"] == "CANCEL"
    assert len(ledger(tmp_path)) == 1


def test_a_cancel_survives_a_kill_of_postgresql(product: Running, tmp_path: Path) -> None:
    task = product.submit([_stop("a", "asks", tmp_path), _stop("b", "ignores", tmp_path)])
    wait_for_runs(tmp_path, 2)
    database = product.pid("postgres")
    operate(product, task, "cancel")

    product.kill("postgres")

    product.restarted("postgres", database)
    product.engine.dispose()
    assert product.settle(task) == "REVOKED"
    assert {one.outcome for one in product.attempts(task)} == {"CANCELED"}


@pytest.mark.chaos
def test_cancels_at_the_very_moment_of_the_end_leave_one_story(product: Running, tmp_path: Path) -> None:
    """Both the end and the cancel may win; whatever is answered is what the record says."""
    tasks = []
    for round_ in range(100):
        task = product.submit([{"key": "a", "kind": "builtin.sleep", "arguments": {"seconds": 0.08}}])
        eventually(lambda task=task: state_of(product, task, "a") != "PENDING", what="it has begun")  # type: ignore[misc]
        threading.Event().wait(round_ % 10 / 100)
        tasks.append((task, is_taken(product, task, "cancel", key="a" if round_ % 2 else None)))

    for task, won in tasks:
        state = product.settle(task)
        assert state in ({"FAILED", "REVOKED"} if won else {"SUCCESSFUL"}), (task, won)
        audit = product.rows("SELECT verb FROM operations WHERE task_id = :task", task=task)
        assert len(audit) == int(won)
    assert 0 < sum(won for _, won in tasks) < len(tasks), "one side always won: the race was not run"
    assert_invariants(product.engine)


@pytest.mark.chaos
def test_fifty_cancels_while_processes_and_the_worker_are_killed_lose_nothing(tmp_path: Path) -> None:
    settings = {"TASKSERVER_CANCEL_GRACE_SECONDS": str(GRACE_SECONDS)}
    with running(tmp_path / "data", concurrency=50, settings=settings) as product:
        hows = ["asks", "returns", "ignores", "sleeps", "asks"] * 10
        task = product.submit([_stop(f"a{index}", how, tmp_path) for index, how in enumerate(hows)])
        pids = [int(pid) for *_, pid in wait_for_runs(tmp_path, 50)]
        worker = product.pid("worker")

        with ThreadPoolExecutor(8) as operators:
            taken = [operators.submit(is_taken, product, task, "cancel", key=f"a{index}") for index in range(50)]
            for pid in pids[::5]:
                with suppress(ProcessLookupError):  # it was killed for its grace
                    os.kill(pid, signal.SIGKILL)
        product.kill("worker")

        product.restarted("worker", worker)
        is_taken(product, task, "cancel")  # what was lost before its cancel came has been begun again
        state = product.settle(task)
        assert state in {"FAILED", "REVOKED"}
        assert sum(one.result() for one in taken) >= 40
        attempts = product.attempts(task)
        assert {one.outcome for one in attempts} <= {"CANCELED", "LOST"}
        canceled = {one.key for one in attempts if one.outcome == "CANCELED"}
        assert canceled >= {f"a{index}" for index, one in enumerate(taken) if one.result()}


def test_the_time_from_the_call_to_the_end_is_short(product: Running, tmp_path: Path) -> None:
    seconds = []
    for round_ in range(20):
        task = product.submit([_stop("a", "asks", tmp_path)])
        wait_for_runs(tmp_path, round_ + 1)
        began = time.monotonic()
        operate(product, task, "cancel")
        assert product.settle(task) == "REVOKED"
        seconds.append(time.monotonic() - began)

    print(f"cancel to end: median {statistics.median(seconds) * 1000:.0f} ms, worst {max(seconds) * 1000:.0f} ms")
    assert statistics.median(seconds) < 0.3
