"""`taskserver doctor` on the whole product: it names what was planted, and is silent about whatever moves."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from schema.database import make_engine
from schema.identity import TaskId
from schema.settings import Settings
from schema.transitions.cancellations import cancel_subtask
from schema.transitions.orders import Order
from taskserver.client import Task, TaskTimeout
from taskserver.diagnosis.examination import examine
from tests.acceptance.conftest import Dev, submission
from tests.acceptance.stack import Running, running, wait_for_runs
from tests.eventually import eventually

_BETWEEN_LOOKS_SECONDS = 1.0
NOOP = {"key": "a", "kind": "builtin.noop"}


def submitted(dev: Dev, *subtasks: dict[str, object], **members: object) -> str:
    """Submit a task and return its id."""
    done = dev.run("submit", "-", stdin=submission(*subtasks, **members))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def findings(dev: Dev, task: str) -> list[dict[str, Any]]:
    """Return what the command finds, and check that its exit code agrees."""
    done = dev.run("doctor", task, "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    assert done.returncode == (1 if found else 0), done.stderr
    return found


@pytest.fixture
def engine(dev: Dev) -> Iterator[Engine]:
    engine = make_engine(dev.environment["TASKSERVER_DATABASE_URL"], name="psql of anna", pool_size=2)
    yield engine
    engine.dispose()


def test_a_queue_without_workers_is_named_with_the_command_that_starts_one(dev: Dev) -> None:
    task = submitted(dev, {**NOOP, "queue": "gpu"})

    told = dev.run("doctor", task)
    (found,) = findings(dev, task)

    assert told.returncode == 1
    assert told.stdout.startswith(f"task {task} is ")
    assert "taskserver worker --queues gpu" in told.stdout
    assert (found["type"], found["subtaskCount"]) == ("no_worker", 1)
    assert dev.run("cancel", task).returncode == 0
    assert findings(dev, task) == []


def test_a_paused_task_is_named_until_it_is_resumed(dev: Dev) -> None:
    nap = {"key": "nap", "kind": "builtin.sleep", "arguments": {"seconds": 5}}
    task = submitted(dev, nap, {**NOOP, "upstreams": ["nap"]})
    dev.run("pause", task, "--reason", "lunch")

    paused = findings(dev, task)
    dev.run("resume", task)
    ended = dev.run("status", task, "--watch")

    assert [one["type"] for one in paused] == ["paused"]
    assert "by 'admin'" in paused[0]["message"]
    assert "(lunch)" in paused[0]["message"]
    assert ended.returncode == 0
    assert findings(dev, task) == []


def test_a_failure_is_named_and_its_cure_cures_it(dev: Dev) -> None:
    bad = {"key": "bad", "kind": "builtin.fail", "arguments": {"message": "out of luck", "times": 1}}
    task = submitted(dev, bad, {**NOOP, "upstreams": ["bad"]})
    dev.run("status", task, "--watch")

    (found,) = findings(dev, task)
    cure = next(part for part in found["cure"].split("`") if part.startswith("taskserver retry"))
    dev.run(*cure.split()[1:])

    assert found["type"] == "failed"
    assert "'bad'" in found["message"]
    assert "out of luck" in found["message"]
    assert dev.run("status", task, "--watch").returncode == 0
    assert findings(dev, task) == []


def test_a_session_that_holds_the_tasks_row_is_named_and_its_cure_cures_it(dev: Dev, engine: Engine) -> None:
    nap = {"key": "nap", "kind": "builtin.sleep", "arguments": {"seconds": 0.5}}
    task = submitted(dev, nap, {**NOOP, "upstreams": ["nap"]})
    with engine.connect() as outside:
        outside.execute(text("SELECT 1 FROM task_progress WHERE id = :id FOR UPDATE"), {"id": int(task)})
        found = eventually(lambda: findings(dev, task), within=15, what="the doctor names the session")
        (cure,) = [part for part in found[0]["cure"].split(": ") if part.startswith("SELECT")]
        with engine.connect() as other:
            other.execute(text(cure))
        outside.invalidate()

    assert [one["type"] for one in found] == ["row_locked"]
    assert "psql of anna, idle in transaction" in found[0]["message"]
    assert dev.run("status", task, "--watch").returncode == 0


def test_nothing_is_found_in_a_healthy_backlog_of_thousands(dev: Dev) -> None:
    many = {"key": "w", "kind": "builtin.noop", "foreach": list(range(7_998))}
    end = {"key": "end", "kind": "builtin.noop", "upstreams": ["w"]}

    with dev.client() as server:
        task = server.submit(json.loads(submission(many, end)))
        looks = _look_until_settled(task)

        assert len(looks) > 2
        assert not {one.message for findings in looks for one in findings}
        assert task.status().is_successful


def test_nothing_is_found_in_a_task_that_waits_behind_many_others(dev: Dev) -> None:
    naps = {"key": "n", "kind": "builtin.sleep", "foreach": list(range(20)), "arguments": {"seconds": 0.05}}

    with dev.client() as server:
        tasks = [server.submit(json.loads(submission(naps))) for _ in range(12)]
        looks = [look for task in reversed(tasks) for look in _look_until_settled(task)]

    assert len(looks) > len(tasks)
    assert not {one.message for findings in looks for one in findings}


def _look_until_settled(task: Task) -> list[Any]:
    looks = [task.diagnosis().findings]
    while True:
        with suppress(TaskTimeout):
            task.wait(timeout=_BETWEEN_LOOKS_SECONDS)
            return [*looks, task.diagnosis().findings]
        looks.append(task.diagnosis().findings)


class TestStubborn:
    @pytest.fixture
    def product(self, tmp_path: Path) -> Iterator[Running]:
        with running(tmp_path / "data", settings={"TASKSERVER_CANCEL_GRACE_SECONDS": "7"}) as product:
            yield product

    def test_a_handler_that_does_not_stop_is_named_with_its_process(self, product: Running, tmp_path: Path) -> None:
        arguments = {"how": "ignores", "directory": str(tmp_path)}
        task = TaskId(product.submit([{"key": "deaf", "kind": "probe.stop", "arguments": arguments}]))
        (_, _, pid), *_ = wait_for_runs(tmp_path, 1)
        subtask = product.subtasks(task)["deaf"]["id"]
        with product.engine.begin() as connection:
            cancel_subtask(connection, task, subtask, Order("anna", account="0"))

        # An examiner who grants no grace, so that the worker's own is still to come.
        hasty = Settings(_env_file=None, cancel_grace_seconds=0.5)
        found = eventually(
            lambda: examine(product.engine, product.redis, hasty, task, account="0").findings,
            within=7,
            what="the doctor names the stubborn handler",
        )

        assert [one.type for one in found] == ["canceling"]
        assert f":{pid}" in found[0].message
        assert product.settle(task) == "FAILED"
