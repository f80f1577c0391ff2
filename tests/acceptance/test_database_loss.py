"""PostgreSQL dies or is restarted while subtasks run: what ran is recorded when it is back, and nobody is rescued."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from taskserver.embedded.places import Places
from tests.acceptance.stack import SETTINGS, Attempt, Document, Running, ledger, running, wait_for_runs
from tests.eventually import eventually

SLOTS = 2
_DEAD_AFTER_SECONDS = float(SETTINGS["TASKSERVER_DEAD_AFTER_SECONDS"])


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    # So slow a beat is rarely the first to come after an outage: who judges must wait for it.
    settings = {"TASKSERVER_BEAT_SECONDS": str(0.75 * _DEAD_AFTER_SECONDS)}
    with running(tmp_path_factory.mktemp("database"), concurrency=SLOTS, settings=settings) as product:
        yield product


def _gate(key: str, directory: Path, **fields: object) -> Document:
    return {"key": key, "kind": "probe.gate", "arguments": {"directory": str(directory)}, **fields}


def _kill_it(product: Running) -> None:
    os.kill(product.pid("postgres"), signal.SIGKILL)


def _restart_it(product: Running) -> None:
    os.kill(product.pid("postgres"), signal.SIGINT)


def _written(product: Running) -> None:
    """Wait until claims are on disk: their commits do not wait for it, so one just made may be lost, and runs again."""
    [now] = product.rows("SELECT pg_current_wal_insert_lsn()::text AS place")
    eventually(lambda: product.rows("SELECT WHERE pg_current_wal_flush_lsn() >= CAST(:place AS pg_lsn)", **now))


@contextmanager
def _away(product: Running) -> Iterator[None]:
    """Kill PostgreSQL, and let it not come back while the block runs."""
    data = Places(product.directory).postgres_data
    before = product.pid("postgres")
    data.rename(data.with_name("aside"))
    _kill_it(product)
    eventually(lambda: product.supervisor.pid("postgres") != before, what="PostgreSQL is gone")
    try:
        yield
    finally:
        data.with_name("aside").rename(data)
        product.restarted("postgres", before)
        product.engine.dispose()
        # Connections that were used in the moment before the outage are found broken by the next request, which says so.
        eventually(
            lambda: product.http.get("/api/v2/tasks/instances?size=1").is_success, what="the server is connected"
        )


@pytest.mark.parametrize("end", [_kill_it, _restart_it])
def test_what_runs_while_postgres_goes_away_is_recorded_when_it_is_back(
    product: Running, end: Callable[[Running], None], tmp_path: Path
) -> None:
    task = product.submit([_gate("a", tmp_path), {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]}])
    few = {"key": "n", "kind": "probe.span", "foreach": [0, 1, 2], "arguments": {}}
    queued = product.submit_many([[few]] * 5)
    wait_for_runs(tmp_path, 1)
    _written(product)
    before = product.pid("postgres")

    end(product)
    eventually(lambda: product.supervisor.pid("postgres") != before, what="PostgreSQL is gone")
    (tmp_path / "open").touch()

    product.restarted("postgres", before)
    product.engine.dispose()
    product.assert_successful([task, *queued])
    assert product.attempts(task) == [Attempt("a", 1, "SUCCESSFUL", None), Attempt("b", 1, "SUCCESSFUL", None)]
    assert all(one.attempt == 1 for other in queued for one in product.attempts(other))
    assert len(ledger(tmp_path)) == 1


@pytest.mark.chaos
def test_an_outage_longer_than_the_silence_that_means_death_rescues_nobody(product: Running, tmp_path: Path) -> None:
    task = product.submit([_gate("a", tmp_path)])
    wait_for_runs(tmp_path, 1)
    _written(product)
    [last] = product.rows("SELECT now() AS time")
    server = product.pid("server")

    with _away(product):
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(product.pid("worker")).wait(timeout=_DEAD_AFTER_SECONDS + 1)
        assert product.http.get(f"/api/v2/tasks/instances/{task}").status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert product.pid("server") == server

    since = "SELECT FROM workers WHERE beat_at > CAST(:last AS timestamptz) + :seconds * interval '1 s'"
    eventually(
        lambda: product.rows(since, last=last["time"], seconds=3 * _DEAD_AFTER_SECONDS),
        what="everybody has had the time to judge",
    )
    (tmp_path / "open").touch()
    product.assert_successful([task])
    assert product.attempts(task) == [Attempt("a", 1, "SUCCESSFUL", None)]
    assert len(ledger(tmp_path)) == 1


def test_pool_processes_that_begin_during_an_outage_run_work_after_it(product: Running, tmp_path: Path) -> None:
    with _away(product):
        children = psutil.Process(product.pid("worker")).children()
        for child in children:
            child.kill()
        psutil.wait_procs(children, timeout=10)
        eventually(lambda: len(psutil.Process(product.pid("worker")).children()) == SLOTS, what="they are replaced")

    task = product.submit([_gate("a", tmp_path, foreach=list(range(SLOTS)))])
    wait_for_runs(tmp_path, SLOTS)
    (tmp_path / "open").touch()
    product.assert_successful([task])
    assert [one.attempt for one in product.attempts(task)] == [1] * SLOTS


@pytest.mark.chaos
def test_a_worker_that_begins_during_an_outage_runs_work_after_it(product: Running, tmp_path: Path) -> None:
    first = product.pid("worker")
    with _away(product):
        product.kill("worker")
        second = eventually(lambda: product.supervisor.pid("worker") not in {None, first} and product.pid("worker"))
        eventually(lambda: product.supervisor.pid("worker") != second, what="it has given up")

    product.restarted("worker", second)
    task = product.submit([_gate("a", tmp_path, foreach=list(range(SLOTS)))])
    wait_for_runs(tmp_path, SLOTS)
    (tmp_path / "open").touch()
    product.assert_successful([task])


def test_a_backend_that_crashes_takes_nothing_with_it(product: Running, tmp_path: Path) -> None:
    """PostgreSQL then ends every connection and recovers."""
    arguments = {"seconds": 0.02, "ledger": str(tmp_path)}
    task = product.submit(
        [
            {"key": "a", "kind": "probe.span", "foreach": list(range(40)), "arguments": arguments},
            {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]},
        ]
    )
    wait_for_runs(tmp_path, 3)
    backends = product.rows("SELECT pid FROM pg_stat_activity WHERE application_name = 'taskserver-worker'")

    os.kill(backends[0]["pid"], signal.SIGKILL)

    product.engine.dispose()
    product.assert_successful([task])
    assert sorted(one.attempt for one in product.attempts(task)) == [1] * 41
