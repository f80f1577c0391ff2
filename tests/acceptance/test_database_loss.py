"""PostgreSQL dies or is restarted while subtasks run: what ran is recorded when it is back, and nobody is rescued."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.stack import Attempt, Running, running, wait_for_runs
from tests.eventually import eventually

SLOTS = 2


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("database"), concurrency=SLOTS) as product:
        yield product


def _kill_it(product: Running) -> None:
    os.kill(product.pid("postgres"), signal.SIGKILL)


def _restart_it(product: Running) -> None:
    os.kill(product.pid("postgres"), signal.SIGINT)


@pytest.mark.parametrize("end", [_kill_it, _restart_it])
def test_what_runs_while_postgres_goes_away_is_recorded_when_it_is_back(
    product: Running, end: Callable[[Running], None], tmp_path: Path
) -> None:
    task = product.submit(
        [
            {"key": "a", "kind": "probe.gate", "arguments": {"directory": str(tmp_path)}},
            {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]},
        ]
    )
    queued = [
        product.submit([{"key": "n", "kind": "probe.span", "foreach": [0, 1, 2], "arguments": {}}]) for _ in range(5)
    ]
    wait_for_runs(tmp_path, 1)
    before = product.pid("postgres")

    end(product)
    eventually(lambda: product.supervisor.pid("postgres") != before, what="PostgreSQL is gone")
    (tmp_path / "open").touch()

    product.restarted("postgres", before)
    product.engine.dispose()
    product.assert_successful([task, *queued])
    assert product.attempts(task) == [Attempt("a", 1, "SUCCESSFUL", None), Attempt("b", 1, "SUCCESSFUL", None)]
    assert all(one.attempt == 1 for other in queued for one in product.attempts(other))
    assert len(wait_for_runs(tmp_path, 1)) == 1


def test_what_runs_on_after_postgres_is_back_is_not_rescued(product: Running, tmp_path: Path) -> None:
    """Its silence is older than what else means death: the beats of before the outage do not count against it."""
    task = product.submit([{"key": "a", "kind": "probe.gate", "arguments": {"directory": str(tmp_path)}}])
    wait_for_runs(tmp_path, 1)
    before = product.pid("postgres")

    _kill_it(product)
    product.restarted("postgres", before)
    product.engine.dispose()
    eventually(
        lambda: product.rows("SELECT FROM workers WHERE beat_at > pg_postmaster_start_time() + interval '3 s'"),
        what="three seconds of beats",
    )
    (tmp_path / "open").touch()

    product.assert_successful([task])
    assert product.attempts(task) == [Attempt("a", 1, "SUCCESSFUL", None)]


def test_a_backend_that_crashes_takes_nothing_with_it(product: Running, tmp_path: Path) -> None:
    """PostgreSQL then ends every connection and recovers."""
    task = product.submit(
        [
            {
                "key": "a",
                "kind": "probe.span",
                "foreach": list(range(40)),
                "arguments": {"seconds": 0.02, "ledger": str(tmp_path)},
            },
            {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]},
        ]
    )
    wait_for_runs(tmp_path, 3)
    backends = product.rows("SELECT pid FROM pg_stat_activity WHERE application_name = 'taskserver-worker'")

    os.kill(backends[0]["pid"], signal.SIGKILL)

    product.engine.dispose()
    product.assert_successful([task])
    assert sorted(one.attempt for one in product.attempts(task)) == [1] * 41
