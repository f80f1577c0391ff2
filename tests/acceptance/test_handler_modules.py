"""Modules of handlers as users write them: with queues of their own, with mistakes, and different ones in two workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import (
    Dev,
    environment,
    first_line,
    log_of,
    run_taskserver,
    running_dev,
    start_dev,
    submission,
)
from tests.acceptance.test_cli_processes import processes_below
from tests.eventually import eventually

BETA = """
from workers import subtask

@subtask("beta.gpu", queue="gpu")
def gpu() -> str:
    return "from gpu"

@subtask("beta.plain")
def plain() -> str:
    return "from default"
"""
MISTAKES = {
    "nope": (None, "handlers module 'nope' is not found"),
    "broken": ("import json\n1 / 0\n", "handlers module 'broken' cannot be imported: ZeroDivisionError"),
    "twice": (f"{BETA}\n{BETA.replace('gpu', 'other')}", "kind 'beta.plain' is registered twice"),
    "fruitless": ("x = 1\n", "fruitless.py) registers nothing"),
    "badly": (
        'from workers import definition\ndefinition("a", subtasks=[{"key": "a", "kind": "no.such"}])\n',
        "badly.py:2",
    ),
}


@pytest.fixture(scope="module")
def beta(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    directory = tmp_path_factory.mktemp("beta")
    (directory / "beta.py").write_text(BETA)
    with running_dev(directory, "--handlers", "beta", "--concurrency", "1") as running:
        yield running


@contextmanager
def extra_worker(dev: Dev, directory: Path, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run another worker of a dev for the block, with the handlers that the options name and no others."""
    env = environment(**{**dev.environment, "TASKSERVER_HANDLERS": ""})
    command = [sys.executable, "-P", "-m", "taskserver", "worker", "--concurrency", "1", *options]
    worker = subprocess.Popen(command, env=env, cwd=directory)
    try:
        yield worker
    finally:
        worker.terminate()
        assert worker.wait(timeout=30) == 0


def queues_of(dev: Dev, worker: "subprocess.Popen[bytes] | None" = None) -> list[str] | None:
    """Return the queues that a worker takes from, once it lives; the dev's own unless another is given."""
    name = f"taskserver-{worker.pid}@" if worker else "dev@"
    with dev.client() as client:
        return next((sorted(one.queues) for one in client.workers() if one.alive and one.name.startswith(name)), None)


def test_a_kind_with_a_queue_of_its_own_runs(beta: Dev) -> None:
    done = beta.run_json("submit", "--kind", "beta.gpu", "--wait")

    assert done["subtasks"][0]["result"] == "from gpu"
    assert queues_of(beta) == ["default", "gpu"]


def test_a_worker_takes_from_the_queues_that_were_named_and_no_others(beta: Dev) -> None:
    with extra_worker(beta, beta.directory, "--handlers", "beta", "--queues", "gpu") as worker:
        queues = eventually(lambda: queues_of(beta, worker))

    assert queues == ["gpu"]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_worker_with_a_wrong_module_ends_at_once_with_what_is_wrong(beta: Dev, tmp_path: Path, name: str) -> None:
    source, message = MISTAKES[name]
    if source is not None:
        (tmp_path / f"{name}.py").write_text(source)

    done = run_taskserver(
        "worker", "--handlers", name, cwd=tmp_path, env={**beta.environment, "TASKSERVER_HANDLERS": ""}
    )

    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert done.stderr.count("error: ") == 1
    assert "started again" not in done.stderr


def test_a_handlers_module_that_is_not_there_ends_dev_with_its_name(tmp_path: Path) -> None:
    process = start_dev(tmp_path, "--handlers", "nope")

    line = first_line(process)
    process.communicate(timeout=60)

    said = log_of(tmp_path)
    assert line == ""
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("error: handlers module 'nope' is not found: ")
    assert "started again" not in said
    assert processes_below(tmp_path) == []


def test_a_module_that_breaks_while_the_worker_runs_does_not_end_its_keeper(beta: Dev, tmp_path: Path) -> None:
    module = tmp_path / "changing.py"
    module.write_text(BETA.replace("beta.", "changing.").replace('"gpu"', '"changing"'))
    with extra_worker(beta, tmp_path, "--handlers", "changing", "--queues", "changing") as worker:
        eventually(lambda: queues_of(beta, worker))
        right = module.read_text()
        [first] = psutil.Process(worker.pid).children()
        module.write_text("1 / 0\n")
        os.kill(first.pid, signal.SIGKILL)
        eventually(lambda: [one.pid for one in psutil.Process(worker.pid).children()] not in ([], [first.pid]))

        module.write_text(right)

        done = beta.run_json("submit", "--kind", "changing.gpu", "--wait")
    assert done["subtasks"][0]["result"] == "from gpu"


def test_what_one_worker_has_no_handler_for_waits_for_one_that_has(beta: Dev, tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text(BETA.replace("beta.", "later."))
    (tmp_path / "idle.py").write_text(BETA.replace("beta.", "idle.").replace('"gpu"', '"idle"'))
    with extra_worker(beta, tmp_path, "--handlers", "later,idle", "--queues", "idle") as worker:
        eventually(
            lambda: queues_of(beta, worker)
        )  # from now on the kinds are known, and nobody runs them in `default`
    mixed = submission(
        {"key": "a", "kind": "later.plain"}, {"key": "b", "kind": "beta.plain"}, {"key": "c", "kind": "later.plain"}
    )

    task = beta.run("submit", "-", stdin=mixed).stdout.strip()
    states = eventually(lambda: (found := _states(beta, task))["b"] == "SUCCESSFUL" and found)
    diagnosis = beta.run("doctor", task).stdout
    with extra_worker(beta, tmp_path, "--handlers", "later"):
        done = beta.run_json("status", task, "--watch")

    assert states["a"] in {"PENDING", "READY", "RUNNING"}
    assert "'later.plain'" in diagnosis
    assert done["state"] == "SUCCESSFUL"
    shown = beta.run_json("show", task)["subtasks"]
    assert {one["key"]: one["attempt"] for one in shown} == {"a": 1, "b": 1, "c": 1}


def _states(dev: Dev, task: str) -> dict[str, str]:
    return {one["key"]: one["status"] for one in dev.run_json("show", task)["subtasks"]}
