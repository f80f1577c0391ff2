"""Clients written for OCP's task API at work on the whole stack: one with a password, one that signs with an access key."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import COMMAND_SECONDS, Dev, environment
from tests.eventually import eventually
from tests.integration.test_ocp_contract import LOG, SUBTASK, TASK_PAGE, WRAPPED_TASK, answered, refused, sections
from tests.ocp_clients import ObservedTask, SigningClient

DOCUMENT = Path(__file__).parents[2].joinpath("docs/ocp.md").read_text()
INSTANCES = "/api/v2/tasks/instances"
# All that the published tables have.
ABOUT: dict[str, Any] = {
    "cluster": {"id": 100, "name": "meta", "obClusterId": 1, "type": "PRIMARY"},
    "tenant": {"id": 1, "name": "SYS", "obTenantId": 1, "mode": "MYSQL"},
    "userId": 7,
    "hostId": 9,
}
NAP = {"key": "nap", "kind": "builtin.sleep", "arguments": {"seconds": 60}, "timeout": 300}
TALK = {"key": "talk", "kind": "builtin.log", "arguments": {"lines": ["one", "任务"]}, "timeout": 300}


def failing(times: int) -> dict[str, Any]:
    return {
        "key": "bad",
        "kind": "builtin.fail",
        "arguments": {"message": "out of luck", "times": times},
        "timeout": 300,
    }


def after(upstream: str) -> dict[str, Any]:
    return {"key": "after", "kind": "builtin.noop", "upstreams": [upstream], "timeout": 300}


@pytest.fixture(scope="module")
def token(dev: Dev) -> str:
    """The token of a principal that may submit and operate."""
    made = httpx.post(
        f"{dev.url}/api/v2/tasks/principals",
        headers={"Authorization": f"Bearer {dev.token}"},
        json={"name": "ocp", "role": "TASK_MANAGER"},
    )
    assert made.status_code == 201, made.text
    return str(made.json()["data"]["token"])


@pytest.fixture
def signing(dev: Dev, token: str) -> Iterator[SigningClient]:
    with httpx.Client(timeout=60) as http:
        yield SigningClient(dev.url.removeprefix("http://"), "ocp", token, http)


class Task:
    """A task that the signing client has submitted, and its calls."""

    def __init__(self, client: SigningClient, *subtasks: dict[str, Any], **members: object) -> None:
        body = json.dumps({"subtasks": subtasks, **ABOUT, **members}).encode()
        response = client.call("POST", INSTANCES, body=body)
        assert response.status_code == 201, response.text
        self.client = client
        self.id = response.json()["data"]["id"]
        self.ids = {one["key"]: one["id"] for one in response.json()["data"]["subtasks"]}

    def address(self, key: str | None = None, call: str = "") -> str:
        subtask = "" if key is None else f"/subtasks/{self.ids[key]}"
        return f"{INSTANCES}/{self.id}{subtask}" + (f"/{call}" if call else "")

    def post(self, call: str, key: str | None = None) -> httpx.Response:
        return self.client.call("POST", self.address(key, call))

    def detail(self) -> Any:
        return answered(self.client.call("GET", self.address()), WRAPPED_TASK)

    def subtasks(self) -> dict[str, tuple[str, str]]:
        return {one["key"]: (one["status"], one["operation"]) for one in self.detail()["subtasks"]}

    def settled(self) -> Any:
        """Poll until the task is not RUNNING any more."""
        return eventually(
            lambda: (detail := self.detail())["status"] != "RUNNING" and detail,
            within=30,
            what=f"task {self.id} has ended",
        )

    def log(self, key: str) -> str:
        return str(answered(self.client.call("GET", self.address(key, "log")), LOG)["log"])


def settling(dev: Dev, task: Task) -> Callable[[], object]:
    """Return what waits until the task has ended, in the place of a tool's sleep."""

    def wait() -> object:
        with dev.client() as server:
            return server.task(task.id).wait(timeout=30)

    return wait


def test_a_tool_with_a_password_retries_what_may_be_retried(dev: Dev, signing: SigningClient, token: str) -> None:
    permitted = {"tool retries": 2}
    lucky = Task(signing, failing(2), after("bad"), name="tool retries")
    unlucky = Task(signing, failing(9), after("bad"), name="tool does not retry")

    seen = [ObservedTask(dev.url, ("ocp", token), one.id) for one in (lucky, unlucky)]
    ends = [tool.wait_done(settling(dev, task), permitted) for tool, task in zip(seen, (lucky, unlucky), strict=True)]

    assert ends == ["SUCCESSFUL", "FAILED"]
    assert [tool.operation for tool in seen] == ["RETRY", "EXECUTE"]
    bad, follower = seen[0].subtasks
    assert (bad["runTime"], bad["operation"], follower["upstreams"]) == (3, "RETRY", [bad["id"]])
    assert seen[0].url == dev.url


def test_a_subtask_is_retried_and_its_log_has_each_attempt(signing: SigningClient) -> None:
    task = Task(signing, TALK, failing(1), after("bad"))
    assert (task.settled()["status"], task.subtasks()["bad"]) == ("FAILED", ("FAILED", "EXECUTE"))

    retried = answered(task.post("retry", "bad"), SUBTASK)

    assert (retried["id"], retried["operation"]) == (task.ids["bad"], "RETRY")
    assert task.settled()["status"] == "SUCCESSFUL"
    assert [one.operation for one in sections(task.log("bad"))] == ["EXECUTE", "RETRY"]
    assert [one.text for one in sections(task.log("talk"))] == ["one\n任务"]


def test_a_failed_subtask_is_skipped(signing: SigningClient) -> None:
    task = Task(signing, failing(9), after("bad"))
    task.settled()

    answered(task.post("skip", "bad"), None)

    assert task.settled()["status"] == "SUCCESSFUL"
    assert task.subtasks() == {"bad": ("SUCCESSFUL", "SKIP"), "after": ("SUCCESSFUL", "EXECUTE")}


def test_a_running_subtask_is_cancelled_and_the_task_fails(signing: SigningClient) -> None:
    task = Task(signing, NAP, after("nap"))
    eventually(lambda: task.subtasks()["nap"][0] == "RUNNING", what="the subtask runs")

    answered(task.post("cancel", "nap"), None)

    assert task.settled()["status"] == "FAILED"
    assert task.subtasks() == {"nap": ("FAILED", "CANCEL"), "after": ("PENDING", "EXECUTE")}
    refused(task.post("cancel", "nap"), 400, 20003)


def test_a_rolled_back_task_is_successful_with_its_subtasks_pending(signing: SigningClient) -> None:
    task = Task(signing, TALK, {**failing(9), "upstreams": ["talk"]}, after("bad"))
    task.settled()

    begun = answered(task.post("rollback"), WRAPPED_TASK)
    ended = task.settled()

    assert begun["operation"] == "ROLLBACK"
    assert (ended["status"], ended["operation"]) == ("SUCCESSFUL", "ROLLBACK")
    assert task.subtasks() == {
        "talk": ("PENDING", "ROLLBACK"),
        "bad": ("PENDING", "ROLLBACK"),
        "after": ("PENDING", "EXECUTE"),
    }
    refused(task.post("retry"), 400, 20003)


def test_a_list_is_asked_for_with_texts_that_must_be_escaped(signing: SigningClient) -> None:
    name = "list me, 100% + ~*'任务"
    tasks = [Task(signing, {**TALK, "key": "talk"}, name=f"{name} {place}") for place in range(3)]
    for task in tasks:
        task.settled()
    asked = {"name": name, "status": ["FAILED", "SUCCESSFUL"], "clusterName": "met", "tenantId": 1, "hostId": 9}

    pages = [
        answered(signing.call("GET", INSTANCES, **asked, page=page, size=2, sort="id,asc"), TASK_PAGE)
        for page in (1, 2)
    ]

    assert [[one["id"] for one in page["contents"]] for page in pages] == [
        [tasks[0].id, tasks[1].id],
        [tasks[2].id],
    ]
    assert pages[1]["page"] == {"totalElements": 3, "totalPages": 2, "number": 2, "size": 2}


def test_a_client_that_sends_get_whatever_was_asked_changes_nothing(signing: SigningClient) -> None:
    task = Task(signing, failing(9))
    before = task.settled()

    acts = [("retry", None), ("rollback", None), ("retry", "bad"), ("skip", "bad"), ("cancel", "bad")]
    for call, key in acts:
        error = refused(signing.call("POST", task.address(key, call), sent_as="GET"), 405, 10005)
        assert "use POST" in error["message"]
    refused(signing.call("POST", INSTANCES, sent_as="GET"), 401, 30001)

    assert task.detail() == before


def test_a_signature_by_another_key_is_refused(dev: Dev, signing: SigningClient) -> None:
    other = SigningClient(signing.address, "ocp", dev.token, signing.http)

    error = refused(other.call("GET", INSTANCES), 401, 30001)

    assert signing.address in error["message"]
    assert dev.token not in error["message"]


def test_the_documented_client_is_answered(dev: Dev, token: str) -> None:
    [program] = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)

    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(URL=dev.url, NAME="ocp", TOKEN=token),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["successful"] is True
