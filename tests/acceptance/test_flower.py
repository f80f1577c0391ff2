"""A running Flower shows every subtask as it is, behind a login; and what may be done to workers from there."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from pydantic import SecretStr

from schema.celeryapp import make_celery, make_redis
from schema.redaction import MASK
from schema.settings import Settings
from tests.acceptance.conftest import Dev, environment, log_of, run_taskserver, running_dev, submission
from tests.acceptance.stack import HANDLERS, REPOSITORY, SETTINGS
from tests.eventually import eventually

WITHIN = 30.0
REFUSED = [
    ("shutdown", {}),
    ("pool_restart", {}),
    ("pool_grow", {"n": 1}),
    ("pool_shrink", {"n": 1}),
    ("autoscale", {"max": 1, "min": 1}),
    ("add_consumer", {"queue": "other"}),
    ("cancel_consumer", {"queue": "default"}),
    ("rate_limit", {"task_name": "taskserver.unit", "rate_limit": "1/h"}),
    ("time_limit", {"task_name": "taskserver.unit", "hard": 1}),
    ("enable_events", {}),
    ("disable_events", {}),
    ("terminate", {"signal": "KILL", "task_id": "x"}),
    ("revoke_by_stamped_headers", {"headers": {}}),
    ("election", {"id": "1", "topic": "t"}),
    ("memdump", {}),
    ("objgraph", {}),
    ("no_such_command", {"any": "thing"}),
]
LOOKING = [
    "active",
    "reserved",
    "scheduled",
    "revoked",
    "registered",
    "active_queues",
    "stats",
    "conf",
    "report",
    "clock",
]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    options = ("--flower-port", "0", "--handlers", HANDLERS, "--concurrency", "2")
    with running_dev(
        tmp_path_factory.mktemp("flower"), *options, env={**SETTINGS, "PYTHONPATH": str(REPOSITORY)}
    ) as dev:
        yield dev


@pytest.fixture(scope="module")
def flower(watched: Dev) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=_address(watched), auth=("admin", watched.token), timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def celery(watched: Dev) -> Iterator[Celery]:
    url = watched.environment["TASKSERVER_REDIS_URL"]
    with make_celery(Settings(redis_url=SecretStr(url))) as app:
        yield app
        app.pool.force_close_all()


def _address(dev: Dev) -> str:
    [address] = re.findall(
        r"^flower: (http://\S+) \(login admin, password in \S+admin-token\)$", log_of(dev.directory), re.MULTILINE
    )
    return str(address)


def _submit(dev: Dev, *subtasks: dict[str, Any]) -> dict[str, Any]:
    """Submit a task and return its detail."""
    return dict(dev.run_json("submit", "-", stdin=submission(*subtasks)))


def _settled(dev: Dev, task: dict[str, Any]) -> dict[str, Any]:
    """Wait until the task has settled, and return its detail."""

    def settled() -> dict[str, Any] | None:
        detail = dict(dev.run_json("show", str(task["id"])))
        return detail if detail["state"] in {"SUCCESSFUL", "FAILED", "REVOKED"} else None

    return eventually(settled, within=WITHIN)


def _shown(flower: httpx.Client, subtask: dict[str, Any]) -> dict[str, Any]:
    answer = flower.get(f"/api/task/info/{subtask['celeryId']}")
    return dict(answer.json()) if answer.is_success else {}


def _eventually_shown(flower: httpx.Client, subtask: dict[str, Any], state: str) -> dict[str, Any]:
    def shown() -> dict[str, Any] | None:
        found = _shown(flower, subtask)
        return found if found.get("state") == state else None

    return eventually(shown, within=WITHIN, what=f"{subtask['key']} is {state}")


def test_every_subtask_is_found_by_its_kind_with_its_state_also_within_a_unit(
    watched: Dev, flower: httpx.Client
) -> None:
    task = _submit(
        watched,
        {"key": "a", "kind": "builtin.noop"},
        {"key": "b", "kind": "builtin.echo", "upstreams": ["a"], "arguments": {"password": "hunter2"}},
        {"key": "part", "kind": "builtin.noop", "upstreams": ["b"], "foreach": list(range(60))},
        {"key": "flaky", "kind": "builtin.fail", "arguments": {"times": 1}, "maxAttempts": 2, "backoffSeconds": 0.1},
        {"key": "join", "kind": "builtin.noop", "upstreams": ["part", "flaky"]},
        {"key": "bad", "kind": "builtin.fail", "upstreams": ["join"], "arguments": {"times": 9, "message": "no disk"}},
    )
    detail = _settled(watched, task)
    units = watched.run_json("show", str(task["id"]))["subtasks"]
    assert detail["state"] == "FAILED"
    assert len(units) == 65

    for subtask in detail["subtasks"]:
        _eventually_shown(flower, subtask, "FAILURE" if subtask["key"] == "bad" else "SUCCESS")

    listed = {
        uuid: (one["name"], one["root_id"], one["state"], one["args"])
        for uuid, one in flower.get("/api/tasks").json().items()
        if one["root_id"] == detail["taskId"]
    }
    assert listed == {
        one["celeryId"]: (
            one["kind"],
            detail["taskId"],
            "FAILURE" if one["key"] == "bad" else "SUCCESS",
            one["key"],
        )
        for one in detail["subtasks"]
    }
    shown = {one["key"]: _shown(flower, one) for one in detail["subtasks"] if one["key"] in {"flaky", "bad", "b"}}
    assert "no disk" in shown["bad"]["exception"]
    assert (shown["flaky"]["retries"], shown["flaky"]["exception"]) == (1, None)
    assert "hunter2" not in str(shown["b"])


def test_what_a_definition_hides_is_nowhere_in_flower(watched: Dev, flower: httpx.Client) -> None:
    secret = {"value": {"$arg": "/secret"}}
    leave = {"maxAttempts": 2, "backoffSeconds": 0.1, "allowFailure": True}
    document = {
        "redact": ["secret"],
        "subtasks": [
            {"key": "same", "kind": "probe.same", "arguments": secret},
            {"key": "echo", "kind": "builtin.echo", "arguments": secret},
            {"key": "fail", "kind": "builtin.fail", "arguments": {"message": {"$arg": "/secret"}}, **leave},
            {"key": "wrong", "kind": "builtin.sleep", "arguments": {"seconds": {"$arg": "/secret"}}, **leave},
        ],
    }
    with watched.client() as server:
        server.put_definition("secretive", document)
        task = server.submit(definition="secretive", arguments={"secret": "hunter2"})
        task.wait(timeout=WITHIN)
        detail = task.detail().document

    shown = {
        one["key"]: _eventually_shown(flower, one, "SUCCESS" if one["key"] in {"same", "echo"} else "FAILURE")
        for one in detail["subtasks"]
    }

    assert {shown[key]["result"] for key in ("same", "echo")} == {MASK}
    assert (shown["fail"]["exception"], shown["wrong"]["exception"]) == ("RuntimeError", "bad_argument")
    pages = ["/tasks", "/api/tasks", *(f"/task/{one['celeryId']}" for one in detail["subtasks"])]
    assert [page for page in pages if "hunter2" in flower.get(page).raise_for_status().text] == []


def test_a_subtask_is_shown_while_it_runs_and_while_it_waits_for_its_next_attempt(
    watched: Dev, flower: httpx.Client, tmp_path: Path
) -> None:
    task = _submit(
        watched,
        {"key": "gate", "kind": "probe.gate", "arguments": {"directory": str(tmp_path)}},
        {
            "key": "again",
            "kind": "builtin.fail",
            "arguments": {"times": 1, "message": "not yet"},
            "maxAttempts": 2,
            "backoffSeconds": 600,
        },
        {"key": "after", "kind": "builtin.noop", "upstreams": ["gate"]},
    )
    subtasks = {one["key"]: one for one in task["subtasks"]}

    _eventually_shown(flower, subtasks["gate"], "STARTED")
    waiting = _eventually_shown(flower, subtasks["again"], "RETRY")

    assert "not yet" in waiting["exception"]
    assert _shown(flower, subtasks["after"]) == {}
    (tmp_path / "open").touch()
    _eventually_shown(flower, subtasks["gate"], "SUCCESS")
    _eventually_shown(flower, subtasks["after"], "SUCCESS")


@pytest.mark.parametrize(
    ("kind", "arguments", "error"),
    [("probe.hang", {"how": "frozen"}, "timeout"), ("probe.die_once", {"directory": "."}, "worker_lost")],
)
def test_the_end_of_what_died_with_its_process_is_told_by_its_successor(
    watched: Dev, flower: httpx.Client, kind: str, arguments: dict[str, Any], error: str
) -> None:
    task = _submit(watched, {"key": "a", "kind": kind, "arguments": arguments})

    shown = _eventually_shown(flower, task["subtasks"][0], "FAILURE")
    assert shown["name"] == kind
    assert shown["exception"].startswith(error)


@pytest.mark.parametrize("path", ["/", "/tasks", "/workers", "/broker", "/api/tasks", "/api/workers", "/metrics"])
def test_nothing_is_shown_without_the_login(watched: Dev, flower: httpx.Client, path: str) -> None:
    with httpx.Client(base_url=flower.base_url) as stranger:
        without = stranger.get(path).status_code
        wrong = [stranger.get(path, auth=one).status_code for one in (("admin", "wrong"), ("other", watched.token))]

    assert (without, wrong) == (401, [401, 401])
    assert flower.get(path, follow_redirects=True).status_code == 200


def test_its_health_is_shown_to_everybody(flower: httpx.Client) -> None:
    assert httpx.get(f"{flower.base_url}/healthcheck").text == "OK"


def test_the_workers_are_shown_alive_with_what_they_can_run(flower: httpx.Client) -> None:
    name = eventually(lambda: next(iter(flower.get("/api/workers", params={"refresh": 1}).json()), None), within=WITHIN)

    alive = eventually(lambda: flower.get("/api/workers", params={"status": 1}).json(), within=WITHIN)
    worker = flower.get("/api/workers", params={"refresh": 1, "workername": name}).json()[name]

    assert alive[name] is True
    assert "builtin.noop" in worker["registered"]


def test_a_subtasks_detail_links_to_its_page_once_it_has_begun(
    watched: Dev, flower: httpx.Client, tmp_path: Path
) -> None:
    task = _submit(
        watched,
        {"key": "gate", "kind": "probe.gate", "arguments": {"directory": str(tmp_path)}},
        {"key": "after", "kind": "builtin.noop", "upstreams": ["gate"]},
    )
    first, second = task["subtasks"]
    _eventually_shown(flower, first, "STARTED")

    begun, waiting = (_detail(watched, task["id"], one["id"]) for one in (first, second))

    assert begun["flowerUrl"] == f"{_address(watched)}/task/{first['celeryId']}"
    assert "flowerUrl" not in waiting
    with watched.client() as server:
        assert server.task(task["id"]).subtask("gate").detail().flower_url == begun["flowerUrl"]
    page = flower.get(begun["flowerUrl"])
    assert page.status_code == 200
    assert "probe.gate" in page.text
    (tmp_path / "open").touch()


def _detail(dev: Dev, task: int, subtask: int) -> dict[str, Any]:
    answer = httpx.get(
        f"{dev.url}/api/v2/tasks/instances/{task}/subtasks/{subtask}", headers={"Authorization": f"Bearer {dev.token}"}
    )
    return dict(answer.raise_for_status().json()["data"])


def test_check_shows_where_it_is(watched: Dev) -> None:
    found = {one["name"]: one for one in watched.run_json("check")["checks"]}

    assert found["flower"] == {"name": "flower", "ok": True, "detail": "answers", "address": _address(watched)}


def test_workers_answer_a_ping_and_refuse_what_would_change_them(watched: Dev, celery: Celery) -> None:
    [(name, pong)] = [pair for one in celery.control.ping() for pair in one.items()]
    before = watched.pid("worker")
    log = watched.data / "log" / "worker.log"
    logged = log.stat().st_size

    for command, arguments in REFUSED:
        [answer] = celery.control.broadcast(command, arguments=arguments, reply=True, timeout=5, limit=1)
        assert f"{command} is not available" in answer[name]["error"]

    assert pong == {"ok": "pong"}
    assert watched.pid("worker") == before
    assert celery.control.ping() == [{name: {"ok": "pong"}}]
    assert "Traceback" not in log.read_text()[logged:]
    done = watched.run("submit", "--kind", "builtin.noop", "--wait")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("question", LOOKING)
def test_workers_can_be_inspected(celery: Celery, question: str) -> None:
    answer: Callable[[], dict[str, Any]] = getattr(celery.control.inspect(timeout=5, limit=1), question)

    [told] = answer().values()

    assert "error" not in told


def test_what_runs_is_inspected_with_its_subtask(watched: Dev, celery: Celery, tmp_path: Path) -> None:
    task = _submit(watched, {"key": "gate", "kind": "probe.gate", "arguments": {"directory": str(tmp_path)}})
    eventually((tmp_path / "ledger").exists, within=WITHIN)

    [active] = celery.control.inspect(timeout=5, limit=1).active().values()

    [unit] = [one for one in active if one["id"] == task["subtasks"][0]["celeryId"]]
    assert (unit["name"], unit["subtask"]) == ("probe.gate", task["subtasks"][0]["id"])
    (tmp_path / "open").touch()


def test_revoking_something_unknown_drops_no_message(watched: Dev, celery: Celery) -> None:
    for wrong in ("x", ["a" * 31], None, 5, []):
        [answer] = celery.control.broadcast("revoke", arguments={"task_id": wrong}, reply=True, timeout=5, limit=1)
        assert "error" in next(iter(answer.values())), wrong

    [revoked] = celery.control.inspect(timeout=5, limit=1).revoked().values()
    assert revoked == []


@pytest.mark.parametrize("whole", [False, True])
def test_revoking_in_flower_cancels(watched: Dev, flower: httpx.Client, whole: bool) -> None:
    task = _submit(
        watched,
        {"key": "sleep", "kind": "builtin.sleep", "arguments": {"seconds": 600}, "allowFailure": True},
        {"key": "after", "kind": "builtin.noop", "upstreams": ["sleep"]},
    )
    sleeping = task["subtasks"][0]
    _eventually_shown(flower, sleeping, "STARTED")

    named = task["taskId"] if whole else sleeping["celeryId"]
    flower.post(f"/api/task/revoke/{named}", params={"terminate": "true"}).raise_for_status()

    _eventually_shown(flower, sleeping, "REVOKED")
    detail = _settled(watched, task)
    assert detail["state"] == ("REVOKED" if whole else "SUCCESSFUL")
    assert {one["key"]: (one["status"], one["operation"]) for one in detail["subtasks"]}["sleep"] == (
        "FAILED",
        "CANCEL",
    )


def test_events_pile_up_nowhere(watched: Dev) -> None:
    settings = Settings(redis_url=SecretStr(watched.environment["TASKSERVER_REDIS_URL"]))
    assert watched.run("submit", "--kind", "builtin.noop", "--wait").returncode == 0

    with make_redis(settings) as redis:
        keys = [key.decode() for key in redis.keys("*")]

    assert [key for key in keys if "celeryev" in key and not key.startswith("_kombu.binding.")] == []


def test_a_flower_that_is_killed_comes_back_at_its_address(watched: Dev, flower: httpx.Client) -> None:
    killed = watched.pid("flower")
    assert killed is not None

    os.kill(killed, signal.SIGKILL)
    eventually(lambda: watched.pid("flower") not in {None, killed}, within=WITHIN)
    eventually(lambda: _alive(flower), within=WITHIN)

    task = _submit(watched, {"key": "a", "kind": "builtin.noop"})
    _eventually_shown(flower, task["subtasks"][0], "SUCCESS")


def _alive(flower: httpx.Client) -> bool:
    """Tell whether it hears of the workers."""
    try:
        return any(flower.get("/api/workers", params={"status": 1}).json().values())
    except httpx.TransportError:
        return False


def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        done = run_taskserver("dev", "--port", "0", "--flower-port", str(port), cwd=tmp_path)

    assert done.returncode == 1
    assert f"Flower cannot listen on 127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / ".taskserver" / "postgres").exists()


def test_flower_without_a_login_is_refused(watched: Dev, tmp_path: Path) -> None:
    broker = {"TASKSERVER_REDIS_URL": watched.environment["TASKSERVER_REDIS_URL"]}

    missing = run_taskserver("flower", "--port", "0", cwd=tmp_path, env=broker)
    wrong = run_taskserver("flower", "--port", "0", cwd=tmp_path, env={**broker, "TASKSERVER_FLOWER_AUTH": "hunter2"})

    assert (missing.returncode, wrong.returncode) == (2, 2)
    assert "TASKSERVER_FLOWER_AUTH is not set" in missing.stderr
    assert "TASKSERVER_FLOWER_AUTH" in wrong.stderr
    assert "hunter2" not in wrong.stderr


def test_behind_a_proxy_all_addresses_have_its_prefix_and_a_login_may_hold_anything(
    watched: Dev, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    settings = {
        "TASKSERVER_REDIS_URL": watched.environment["TASKSERVER_REDIS_URL"],
        "TASKSERVER_FLOWER_URL": f"http://127.0.0.1:{port}/ops/flower",
        "TASKSERVER_FLOWER_AUTH": "ann:a,b:c",
    }
    program = [sys.executable, "-P", "-m", "taskserver", "flower", "--port", str(port)]
    process = subprocess.Popen(program, env=environment(**settings), cwd=tmp_path)
    root = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _status(f"{root}/healthcheck") == 200, within=WITHIN)

        found = {
            (path, login): _status(f"{root}{path}", auth=("ann", login))
            for path in ("/ops/flower/tasks", "/ops/flower/metrics", "/metrics", "/tasks")
            for login in ("a,b:c", "a", "b:c")
        }
    finally:
        process.terminate()
        code = process.wait(timeout=30)

    assert {path for (path, login), status in found.items() if login == "a,b:c" and status == 200} == {
        "/ops/flower/tasks",
        "/ops/flower/metrics",
    }
    assert not [key for key, status in found.items() if key[1] != "a,b:c" and status == 200]
    assert code == 0


def _status(url: str, **options: Any) -> int:
    try:
        return httpx.get(url, **options).status_code
    except httpx.TransportError:
        return 0
