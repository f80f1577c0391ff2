"""Processes die at the worst moment: nothing is lost, nothing is recorded twice, and only what ran is charged."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.conftest import Dev, running_dev
from tests.acceptance.stack import (
    HANDLERS,
    REPOSITORY,
    SETTINGS,
    Attempt,
    Document,
    Product,
    Running,
    ledger,
    running,
    wait_for_runs,
)
from tests.eventually import eventually
from tests.invariants import assert_invariants

SLOTS = 2


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("crashes"), concurrency=SLOTS) as product:
        yield product


def _gate(key: str, directory: Path, **fields: object) -> Document:
    return {"key": key, "kind": "probe.gate", "arguments": {"directory": str(directory)}, **fields}


def _open(directory: Path) -> None:
    (directory / "open").touch()


def test_a_killed_pool_process_costs_one_attempt_and_the_task_goes_on(product: Running, tmp_path: Path) -> None:
    task = product.submit([_gate("a", tmp_path), {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]}])
    [[_, _, pid]] = wait_for_runs(tmp_path, 1)

    os.kill(int(pid), signal.SIGKILL)
    wait_for_runs(tmp_path, 2)
    _open(tmp_path)

    product.assert_successful([task])
    assert product.attempts(task) == [
        Attempt("a", 1, "LOST", "worker_lost"),
        Attempt("a", 2, "SUCCESSFUL", None),
        Attempt("b", 1, "SUCCESSFUL", None),
    ]
    assert product.results(task)["a"] == 2


def test_the_place_of_a_killed_process_is_taken_at_once(product: Running, tmp_path: Path) -> None:
    """Its successor finds what it held; nobody waits for its silence."""
    task = product.submit([_gate("a", tmp_path)])
    [[_, _, pid]] = wait_for_runs(tmp_path, 1)
    _open(tmp_path)

    os.kill(int(pid), signal.SIGKILL)

    assert product.settle(task, within=float(SETTINGS["TASKSERVER_DEAD_AFTER_SECONDS"]) * 0.75) == "SUCCESSFUL"


def test_what_a_killed_process_had_not_begun_is_not_charged(product: Running, tmp_path: Path) -> None:
    keys = [f"part[{index}]" for index in range(30)]
    task = product.submit([_gate("part", tmp_path, foreach=list(range(30)))])
    pids = {int(pid) for _, _, pid in wait_for_runs(tmp_path, SLOTS)}
    first = {key for key, _, _ in ledger(tmp_path)}

    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for_runs(tmp_path, SLOTS + 1)
    _open(tmp_path)

    product.assert_successful([task])
    lost = {one.key for one in product.attempts(task) if one.outcome == "LOST"}
    assert lost == first
    assert sorted(one.key for one in product.attempts(task) if one.outcome == "SUCCESSFUL") == sorted(keys)


@pytest.mark.parametrize("how", ["exit", "segfault"])
def test_a_handler_that_kills_its_process_is_given_up_and_its_neighbours_run(
    product: Running, how: str, tmp_path: Path
) -> None:
    poison = product.submit(
        [
            {"key": "poison", "kind": "probe.die", "arguments": {"how": how, "directory": str(tmp_path)}},
            {"key": "after", "kind": "builtin.noop", "upstreams": ["poison"]},
        ]
    )
    neighbours = product.submit([{"key": "n", "kind": "probe.span", "foreach": list(range(20)), "arguments": {}}])

    assert product.settle(poison) == "FAILED"
    product.assert_successful([neighbours])
    assert product.attempts(poison) == [Attempt("poison", number, "LOST", "worker_lost") for number in (1, 2, 3)]
    assert len(ledger(tmp_path)) == 3
    assert product.detail(poison)["error"]["type"] == "worker_lost"


def test_a_kind_that_must_not_begin_twice_fails_when_its_process_dies(product: Running, tmp_path: Path) -> None:
    task = product.submit([{"key": "once", "kind": "probe.die_once", "arguments": {"directory": str(tmp_path)}}])

    assert product.settle(task) == "FAILED"
    assert product.attempts(task) == [Attempt("once", 1, "LOST", "worker_lost")]
    assert len(ledger(tmp_path)) == 1


def test_a_killed_worker_is_started_again_and_everything_settles(product: Running, tmp_path: Path) -> None:
    keys = [f"part[{index}]" for index in range(40)]
    task = product.submit(
        [
            _gate("part", tmp_path, foreach=list(range(40))),
            {"key": "join", "kind": "builtin.noop", "upstreams": ["part"]},
        ]
    )
    wait_for_runs(tmp_path, SLOTS)
    begun = {key for key, _, _ in ledger(tmp_path)}

    before = product.kill("worker")
    _open(tmp_path)

    product.restarted("worker", before)
    product.assert_successful([task])
    attempts = product.attempts(task)
    assert {one.key for one in attempts if one.outcome == "LOST"} <= begun, "what had not begun was charged"
    assert sorted(one.key for one in attempts if one.outcome == "SUCCESSFUL") == sorted([*keys, "join"])


def test_a_worker_that_is_asked_to_end_finishes_or_hands_back_what_it_has(product: Running, tmp_path: Path) -> None:
    tasks = [
        product.submit(
            [
                {"key": "part", "kind": "probe.span", "foreach": list(range(10)), "arguments": {"seconds": 0.05}},
                {"key": "join", "kind": "builtin.noop", "upstreams": ["part"]},
            ]
        )
        for _ in range(5)
    ]
    gate = product.submit([_gate("a", tmp_path)])
    eventually(lambda: any(product.attempts(task) for task in tasks), what="work is under way")
    before = product.pid("worker")

    os.kill(before, signal.SIGTERM)
    _open(tmp_path)

    product.restarted("worker", before)
    product.assert_successful([*tasks, gate])
    assert {one.outcome for task in [*tasks, gate] for one in product.attempts(task)} == {"SUCCESSFUL"}


@pytest.mark.chaos
def test_what_a_killed_server_has_acknowledged_settles(product: Running) -> None:
    acknowledged: list[int] = []
    lock = threading.Lock()
    stopping = threading.Event()

    def storm() -> None:
        while not stopping.is_set():
            try:
                task = product.submit(
                    [
                        {"key": "a", "kind": "probe.span", "foreach": [0, 1, 2], "arguments": {}},
                        {"key": "b", "kind": "probe.span", "upstreams": ["a"], "arguments": {}},
                    ]
                )
            except httpx.TransportError:
                continue  # never acknowledged
            with lock:
                acknowledged.append(task)

    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for round_ in (1, 2):
            eventually(lambda enough=20 * round_: len(acknowledged) >= enough, what="the storm blows")
            product.restarted("server", product.kill("server"))
            seen = len(acknowledged)
            eventually(lambda more=seen + 10: len(acknowledged) >= more, what="the storm goes on")
    finally:
        stopping.set()
        for thread in threads:
            thread.join()

    product.idle()
    states = product.rows(
        "SELECT state, count(*)::int AS n FROM tasks WHERE id = ANY (CAST(:ids AS bigint[])) GROUP BY state",
        ids=acknowledged,
    )
    assert states == [{"state": "SUCCESSFUL", "n": len(set(acknowledged))}]


def _dev(directory: Path) -> AbstractContextManager[Dev]:
    """Run `taskserver dev` as its users do, with a supervisor that can be killed."""
    options = ("--no-flower", "--handlers", HANDLERS, "--concurrency", str(SLOTS))
    return running_dev(directory, *options, env={**SETTINGS, "PYTHONPATH": str(REPOSITORY)})


def _kill_everything(dev: Dev) -> None:
    process = psutil.Process(dev.process.pid)
    family = [process, *process.children(recursive=True)]
    for one in family:
        one.kill()
    psutil.wait_procs(family, timeout=10)


def test_after_a_kill_of_everything_a_new_start_goes_on(tmp_path: Path) -> None:
    with _dev(tmp_path) as dev:
        product = Product(dev.data)
        begun = product.submit([_gate("a", tmp_path), {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]}])
        wait_for_runs(tmp_path, 1)
        parts = {"key": "n", "kind": "probe.span", "foreach": list(range(50)), "arguments": {"seconds": 0.02}}
        waiting = product.submit_many([[parts]] * 4)
        _kill_everything(dev)
        product.close()
    _open(tmp_path)

    with _dev(tmp_path) as dev:
        product = Product(dev.data)
        product.assert_successful([begun, *waiting])
        assert_invariants(product.engine)
        assert [one.outcome for one in product.attempts(begun)] == ["LOST", "SUCCESSFUL", "SUCCESSFUL"]
        product.close()
