import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from taskserver.client import TaskServer
from tests.acceptance.conftest import (
    Dev,
    environment,
    log_of,
    run_taskserver,
    running_dev,
)
from tests.eventually import eventually

HANDLERS = """
from workers import Context, subtask


@subtask("greeting.say")
def say(ctx: Context, name: str) -> str:
    print("hello", name)
    return f"hello {name}"


@subtask("greeting.aside", queue="aside")
def aside() -> str:
    return "from aside"
"""


def processes_below(directory: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(directory) in word for word in words):
            found.append(" ".join(words))
    return found


def kinds_finding(dev: Dev) -> dict[str, Any]:
    (found,) = [one for one in dev.run_json("check")["checks"] if one["name"] == "kinds"]
    return dict(found)


def test_check_proves_a_running_dev_and_shows_addresses_without_secrets(dev: Dev) -> None:
    report = dev.run_json("check")

    found = {one["name"]: one for one in report["checks"]}
    assert report["ok"]
    assert set(found) == {"settings", "database", "migrations", "broker", "workers", "kinds"}
    assert str(dev.data / "run") in found["database"]["address"]
    assert found["broker"]["address"] == f"redis+socket://{dev.data}/run/redis.sock"
    assert "builtin.echo" in found["kinds"]["detail"]


def test_check_says_what_to_do_about_each_failure_and_shows_no_password(tmp_path: Path) -> None:
    done = run_taskserver(
        "check",
        "--json",
        cwd=tmp_path,
        env={
            "TASKSERVER_DATABASE_URL": "postgresql://app:hunter2@127.0.0.1:1/app",
            "TASKSERVER_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0",
            "TASKSERVER_SECRET_KEY": "hunter2",
        },
    )

    found = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert found["settings"]["ok"]
    assert not found["database"]["ok"]
    assert not found["broker"]["ok"]
    assert "TASKSERVER_DATABASE_URL" in found["database"]["cure"]
    assert "TASKSERVER_REDIS_URL" in found["broker"]["cure"]
    assert "hunter2" not in done.stdout + done.stderr


def test_check_without_settings_and_without_a_dev_says_which_are_missing(tmp_path: Path) -> None:
    done = run_taskserver("check", cwd=tmp_path)

    assert done.returncode == 1
    assert "TASKSERVER_DATABASE_URL" in done.stdout


def test_a_worker_is_checked_without_the_secret_key(dev: Dev, tmp_path: Path) -> None:
    known = {name: dev.environment[name] for name in ("TASKSERVER_DATABASE_URL", "TASKSERVER_REDIS_URL")}

    of_server = run_taskserver("check", cwd=tmp_path, env=known)
    of_worker = run_taskserver("check", "--worker", cwd=tmp_path, env=known)

    assert (of_server.returncode, of_worker.returncode) == (1, 0), of_worker.stdout
    assert "not set: TASKSERVER_SECRET_KEY" in of_server.stdout


def test_a_server_without_settings_names_the_missing_one_before_a_taken_port(dev: Dev, tmp_path: Path) -> None:
    done = run_taskserver("server", "--port", dev.url.rpartition(":")[2], cwd=tmp_path)

    assert done.returncode == 2
    assert "TASKSERVER_DATABASE_URL" in done.stderr


def test_a_wrong_setting_is_named_and_its_value_is_not(tmp_path: Path) -> None:
    done = run_taskserver("check", cwd=tmp_path, env={"TASKSERVER_REDIS_URL": "amqp://hunter2@host"})

    assert done.returncode == 2
    assert "TASKSERVER_REDIS_URL" in done.stderr
    assert "hunter2" not in done.stderr


def test_tokens_and_keys_are_private(dev: Dev) -> None:
    for name in ("admin-token", "secret-key", "dev.env", "url"):
        assert (dev.data / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("part", ["server", "worker"])
def test_a_part_that_is_killed_comes_back_and_the_address_stays(dev: Dev, part: str) -> None:
    killed = dev.pid(part)
    assert killed is not None

    os.kill(killed, signal.SIGKILL)
    eventually(lambda: dev.pid(part) not in {None, killed})
    eventually(lambda: _answers(dev))

    done = dev.run("submit", "--kind", "builtin.noop", "--wait")
    assert done.returncode == 0, done.stderr


def _answers(dev: Dev) -> bool:
    try:
        return httpx.get(f"{dev.url}/readyz").is_success
    except httpx.TransportError:
        return False


def test_a_second_dev_on_the_same_directory_is_refused_and_harms_nothing(dev: Dev) -> None:
    done = dev.run("dev", "--port", "0")

    assert done.returncode == 1
    assert done.stdout == ""
    assert str(dev.process.pid) in done.stderr
    assert _answers(dev)


def test_a_taken_port_is_told_before_anything_is_started(dev: Dev, tmp_path: Path) -> None:
    port = dev.url.rpartition(":")[2]

    done = run_taskserver("dev", "--port", port, cwd=tmp_path)

    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / ".taskserver" / "postgres").exists()


def test_further_servers_and_workers_join_and_end_in_order(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "greetings.py").write_text(HANDLERS)
    port_file = tmp_path / "port"
    env = environment(**dev.environment)
    program = [sys.executable, "-P", "-m", "taskserver"]
    second = subprocess.Popen([*program, "server", "--port", "0", "--port-file", str(port_file)], env=env, cwd=tmp_path)
    worker = subprocess.Popen(
        [*program, "worker", "--queues", "aside", "--concurrency", "1", "--handlers", "greetings"],
        env=env,
        cwd=tmp_path,
    )
    try:
        with dev.client() as client:
            eventually(lambda: "greeting.aside" in {one.name for one in client.kinds()})
        eventually(port_file.exists)
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        eventually(lambda: _answers(Dev(dev.process, url, dev.directory)))
        first_celery = psutil.Process(worker.pid).children()[0]
        first_celery.kill()
        eventually(lambda: [one.pid for one in psutil.Process(worker.pid).children()] not in ([], [first_celery.pid]))

        with TaskServer(url, dev.token) as client:
            task = client.submit({"subtasks": [{"key": "a", "kind": "greeting.aside"}]})
            *_, last = task.changes()

        assert last.is_successful
    finally:
        second.terminate()
        worker.terminate()
        codes = [second.wait(timeout=30), worker.wait(timeout=30)]
    assert codes == [0, 0]
    # The killed Celery passes for alive until it has been silent for long enough.
    eventually(lambda: "no live worker has greeting.aside, greeting.say" in kinds_finding(dev)["detail"])
    found = kinds_finding(dev)
    assert found["ok"]
    assert "taskserver worker --handlers" in found["cure"]


def test_server_refuses_a_database_that_is_not_migrated_until_migrate_has_run(dev: Dev, tmp_path: Path) -> None:
    # PostgreSQL's own database, which nobody else uses here.
    database = dev.environment["TASKSERVER_DATABASE_URL"].replace("/taskserver?", "/postgres?")
    env = {**dev.environment, "TASKSERVER_DATABASE_URL": database}

    refused = run_taskserver("server", "--port", "0", cwd=tmp_path, env=env)
    checked = run_taskserver("check", "--json", cwd=tmp_path, env=env)
    migrated = run_taskserver("migrate", cwd=tmp_path, env=env)
    again = run_taskserver("check", "--json", cwd=tmp_path, env=env)

    assert refused.returncode == 4
    assert "taskserver migrate" in refused.stderr
    assert {one["name"]: one for one in json.loads(checked.stdout)["checks"]}["migrations"][
        "cure"
    ] == "run `taskserver migrate`"
    assert migrated.returncode == 0, migrated.stderr
    assert {one["name"]: one["ok"] for one in json.loads(again.stdout)["checks"]}["migrations"]


@pytest.mark.chaos
def test_dev_survives_a_kill_and_finds_handlers_beside_it_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "greetings.py").write_text(HANDLERS)
    for decoy in ("workers.py", "schema.py", "taskserver.py", "celery.py"):
        (tmp_path / decoy).write_text("raise SystemError('the wrong one')\n")
    options = ("--handlers", "greetings", "--concurrency", "1")

    with running_dev(tmp_path, *options, env={"TASKSERVER_ADMIN_TOKEN": "given by me"}) as first:
        task = first.run_json("submit", "--kind", "greeting.say", "--arg", "name=Ann", "--wait")
        given = first.token
        first.process.kill()
        first.process.wait()
    with running_dev(tmp_path, *options) as second:
        kept = second.run_json("show", str(task["id"]))
        again = second.run_json("submit", "--kind", "greeting.say", "--arg", "name=Bob", "--wait")
        rest = second.stop()

    assert given == "given by me"
    assert kept["subtasks"][0]["result"] == "hello Ann"
    assert again["subtasks"][0]["result"] == "hello Bob"
    assert second.process.returncode == 0
    assert rest == ""
    assert processes_below(tmp_path) == []
    assert not (tmp_path / ".taskserver" / "url").exists()
    assert "process_killed" not in log_of(tmp_path)
