"""A client written for bk-sops at work on the running product: it polls tasks, walks their nodes and tells what failed."""

import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import httpx
import pytest

from taskserver.client import TaskServer
from tests.acceptance.conftest import Dev
from tests.eventually import eventually

ENDS = {"FINISHED", "FAILED", "REVOKED"}


class GatewayError(Exception):
    """What the original's SDK raises where the answer is not its gateway's."""


class SopsClient:
    """Calls as the original's SDK does: common parameters with each, JSON without a content type, any status but 200 raises."""

    def __init__(self, http: httpx.Client, code: str, secret: str, *, method: str = "GET") -> None:
        self._http = http
        self._common = {"bk_app_code": code, "bk_app_secret": secret, "bk_username": "admin"}
        self._method = method

    def get_task_status(self, **parameters: object) -> dict[str, Any]:
        given: Mapping[str, Any] = {**self._common, **parameters}
        path = "/api/c/compapi/v2/sops/get_task_status/"
        if self._method == "GET":
            answer = self._http.get(path, params=given)
        else:
            answer = self._http.post(path, content=json.dumps(given))
        if answer.status_code != 200:
            raise GatewayError(answer.status_code)
        return dict(answer.json())

    def state(self, task_id: int | str, **parameters: object) -> dict[str, Any]:
        """Return the data of a task or node."""
        answer = self.get_task_status(bk_biz_id=2, task_id=task_id, **parameters)
        assert answer["result"], answer["message"]
        return dict(answer["data"])

    def until(self, task_id: int | str, *states: str) -> dict[str, Any]:
        """Poll until the task or node is in one of the states."""

        def poll() -> dict[str, Any] | None:
            data = self.state(task_id, with_ex_data=True)
            return data if data["state"] in states else None

        return eventually(poll, within=30, what=f"{task_id} is {' or '.join(states)}")


def leaves(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Walk the tree to its leaves, however deep."""
    for child in data["children"].values():
        if child["children"]:
            yield from leaves(child)
        else:
            yield child


def failed_nodes(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in leaves(data) if one["state"] == "FAILED"]


def states(data: Mapping[str, Any]) -> dict[str, str]:
    return {one["name"]: one["state"] for one in leaves(data)}


def named(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    [found] = [one for one in leaves(data) if one["name"] == name]
    return found


def read_time(written: str) -> datetime:
    return datetime.strptime(written, "%Y-%m-%d %H:%M:%S %z")


@pytest.fixture(scope="module")
def secret(dev: Dev) -> str:
    made = dev.run_json("principals", "create", "esb_test", "--role", "TASK_VIEWER", "--account", "0")
    return str(made["token"])


@pytest.fixture
def http(dev: Dev) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=dev.url, timeout=30, trust_env=False) as http:
        yield http


@pytest.fixture(params=["GET", "POST"])
def sops(http: httpx.Client, secret: str, request: pytest.FixtureRequest) -> SopsClient:
    return SopsClient(http, "esb_test", secret, method=request.param)


@pytest.fixture
def server(dev: Dev) -> Iterator[TaskServer]:
    """The operator's side: the original has other calls for that."""
    with dev.client() as server:
        yield server


def job(key: str, kind: str, *upstreams: str, **arguments: object) -> dict[str, Any]:
    return {"key": key, "kind": f"builtin.{kind}", "upstreams": list(upstreams), "arguments": arguments}


def test_a_task_is_polled_from_its_submission_to_its_end(sops: SopsClient, server: TaskServer) -> None:
    task = server.submit(
        name="deploy",
        biz_id="2",
        subtasks=[
            job("start", "noop"),
            {**job("part", "echo", "start"), "foreach": [1, 2, 3], "arguments": {"n": {"$item": ""}}},
            job("end", "noop", "part"),
        ],
    )

    data = sops.until(task.id, "FINISHED")

    assert (data["name"], data["ex_data"]) == ("deploy", {})
    assert states(data) == dict.fromkeys(["start", "part[0]", "part[1]", "part[2]", "end"], "FINISHED")
    for node in (data, *leaves(data)):
        began, ended = read_time(node["start_time"]), read_time(node["finish_time"])
        assert (ended - began).total_seconds() == node["elapsed_time"]
    assert sops.state(data["id"]) == {name: one for name, one in data.items() if name != "ex_data"}


def test_a_failed_node_is_found_with_its_reason_and_its_retry_is_seen(sops: SopsClient, server: TaskServer) -> None:
    task = server.submit(
        biz_id="2", subtasks=[job("good", "noop"), job("bad", "fail", "good", message="no disk", times=2)]
    )
    data = sops.until(task.id, *ENDS)
    assert (data["state"], data["finish_time"]) == ("FAILED", "")
    [first] = failed_nodes(data)
    assert "no disk" in data["ex_data"][first["id"]]
    assert (first["retry"], first["skip"]) == (0, False)

    task.subtask("bad").retry()
    task.wait(timeout=30)
    [second] = failed_nodes(sops.state(task.id))
    task.retry()
    data = sops.until(task.id, "FINISHED")

    last = sops.state(first["id"])
    assert last == named(data, "bad")
    assert [second["retry"], last["retry"], last["skip"]] == [1, 2, False]
    assert len({first["version"], second["version"], last["version"]}) == 3
    assert failed_nodes(data) == []


def test_a_node_that_waits_for_its_next_attempt_is_created_and_has_no_reason(
    sops: SopsClient, server: TaskServer
) -> None:
    bad = {**job("bad", "fail", message="not yet", times=1), "maxAttempts": 2, "backoffSeconds": 600}
    task = server.submit(biz_id="2", subtasks=[bad])
    waiting = eventually(
        lambda: (data := sops.state(task.id, with_ex_data=1)) and named(data, "bad")["retry"] == 1 and data,
        what="it has failed once",
    )

    node = named(waiting, "bad")
    assert (waiting["state"], waiting["ex_data"]) == ("RUNNING", {})
    assert (node["state"], node["start_time"], node["finish_time"], node["elapsed_time"]) == ("CREATED", "", "", 0)
    task.cancel()
    sops.until(task.id, "REVOKED")


def test_a_skipped_node_is_finished_and_says_so(sops: SopsClient, server: TaskServer) -> None:
    task = server.submit(biz_id="2", subtasks=[job("bad", "fail", message="x", times=99), job("end", "noop", "bad")])
    data = sops.until(task.id, "FAILED")
    assert states(data) == {"bad": "FAILED", "end": "CREATED"}
    before = named(data, "bad")

    task.subtask("bad").skip()

    node = named(sops.until(task.id, "FINISHED"), "bad")
    assert (node["state"], node["skip"], node["retry"]) == ("FINISHED", True, 1)
    assert node["version"] != before["version"]


def test_a_paused_task_is_suspended_while_its_nodes_run_or_wait_and_a_cancelled_one_revoked(
    sops: SopsClient, server: TaskServer
) -> None:
    task = server.submit(biz_id="2", subtasks=[job("long", "sleep", seconds=600), job("end", "noop", "long")])
    eventually(lambda: named(sops.state(task.id), "long")["state"] == "RUNNING", what="it runs")

    task.pause()
    data = sops.state(task.id)
    assert (data["state"], states(data)) == ("SUSPENDED", {"long": "RUNNING", "end": "CREATED"})
    task.resume()
    assert sops.state(task.id)["state"] == "RUNNING"
    task.cancel()

    data = sops.until(task.id, *ENDS)
    assert (data["state"], states(data)) == ("REVOKED", {"long": "FAILED", "end": "CREATED"})
    assert data["finish_time"]
    assert data["ex_data"].keys() == {named(data, "long")["id"]}


def test_a_task_that_waits_for_its_time_is_created_with_all_its_nodes(sops: SopsClient, server: TaskServer) -> None:
    task = server.submit({"startAt": "2100-01-01T00:00:00Z"}, biz_id="2", subtasks=[job("a", "noop")])

    data = sops.state(task.id)
    task.cancel()

    assert (data["state"], data["start_time"], states(data)) == ("CREATED", "", {"a": "CREATED"})
    assert sops.until(task.id, *ENDS)["state"] == "REVOKED"


def test_an_allowed_failure_is_told_in_a_finished_task(sops: SopsClient, server: TaskServer) -> None:
    maybe = {**job("maybe", "fail", message="x", times=99), "allowFailure": True}
    task = server.submit(biz_id="2", subtasks=[maybe, job("end", "noop", "maybe")])

    data = sops.until(task.id, *ENDS)

    assert (data["state"], states(data)) == ("FINISHED", {"maybe": "FAILED", "end": "FINISHED"})
    [node] = failed_nodes(data)
    assert node["error_ignored"]


def test_a_task_that_was_rolled_back_is_revoked_and_nothing_of_it_done(sops: SopsClient, server: TaskServer) -> None:
    task = server.submit(biz_id="2", subtasks=[job("a", "noop"), job("bad", "fail", "a", message="x", times=99)])
    sops.until(task.id, "FAILED")

    task.rollback()

    data = sops.until(task.id, "REVOKED")
    assert states(data) == {"a": "CREATED", "bad": "CREATED"}
    assert (data["finish_time"] != "", data["ex_data"]) == (True, {})


def test_what_a_client_does_wrong_it_reads_in_message(
    sops: SopsClient, http: httpx.Client, server: TaskServer, secret: str
) -> None:
    task = server.submit(biz_id="2", subtasks=[job("a", "noop")])

    refusals = [
        sops.get_task_status(bk_biz_id="3", task_id=task.id),
        sops.get_task_status(bk_biz_id="2", task_id=0),
        sops.get_task_status(bk_biz_id="2"),
        sops.get_task_status(bk_biz_id="2", task_id="one"),
        SopsClient(http, "esb_test", "guessed").get_task_status(bk_biz_id="2", task_id=task.id),
        SopsClient(http, "admin", secret).get_task_status(bk_biz_id="2", task_id=task.id),
    ]

    assert [one["result"] for one in refusals] == [False] * 6
    assert all(one["message"] and one["data"] is None for one in refusals)
    assert len({one["message"] for one in refusals[:4]}) == 4


def test_no_log_line_holds_a_secret_of_a_query(dev: Dev, http: httpx.Client, secret: str) -> None:
    path = "/api/c/compapi/v2/sops/get_task_status/"
    guessed = secrets.token_hex(16)

    for given in (secret, guessed):
        credential = {"bk_app_code": "esb_test", "bk_app_secret": given}
        http.get(path, params={**credential, "bk_biz_id": "2", "task_id": "1"})
        http.get(path, params={**credential, "bk_biz_id": "\x00", "task_id": "?"})
        http.delete(path, params=credential)
        http.get(f"{path}nowhere", params=credential)
        http.post(path, params=credential, content=b"{")

    logs = [file for file in dev.directory.rglob("*log*") if file.is_file()]
    assert dev.directory / "dev.log" in logs
    for file in logs:
        text = file.read_text(errors="replace")
        assert secret not in text, file
        assert guessed not in text, file
