"""Following a task and a log on the running product, as `docs/live.md` tells."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from tests.acceptance.conftest import Dev

INSTANCES = "/api/v2/tasks/instances"
DOCUMENT = Path(__file__).parents[2].joinpath("docs", "live.md").read_text()
CALLS = re.findall(r"^curl -N (.*)$", DOCUMENT, re.MULTILINE)


@pytest.fixture
def http(dev: Dev) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {dev.token}"}
    with httpx.Client(base_url=dev.url, headers=headers, timeout=30, trust_env=False) as http:
        yield http


def submit(http: httpx.Client, *subtasks: Mapping[str, Any]) -> Any:
    answer = http.post(INSTANCES, json={"subtasks": subtasks})
    assert answer.status_code == 201, answer.text
    return answer.json()["data"]


def events(http: httpx.Client, path: str) -> list[ServerSentEvent]:
    with connect_sse(http, "GET", path) as source:
        return list(source.iter_sse())


def test_a_task_is_followed_from_its_submission_to_its_end(http: httpx.Client) -> None:
    task = submit(
        http,
        {"key": "a", "kind": "builtin.sleep", "arguments": {"seconds": 0.3}},
        {"key": "b", "kind": "builtin.sleep", "arguments": {"seconds": 0.3}, "upstreams": ["a"]},
    )

    followed = events(http, f"{INSTANCES}/{task['id']}/events")

    statuses = [json.loads(one.data) for one in followed[:-1]]
    assert {one.event for one in followed[:-1]} == {"status"}
    assert len(statuses) > 2
    assert [int(one.id) for one in followed[:-1]] == sorted({one["changeNumber"] for one in statuses})
    assert statuses[-1] == http.get(f"{INSTANCES}/{task['id']}/status").json()["data"]
    assert statuses[-1]["state"] == "SUCCESSFUL"
    assert (followed[-1].event, json.loads(followed[-1].data)) == ("end", {"state": "SUCCESSFUL"})


def test_a_log_is_followed_from_attempt_to_attempt(http: httpx.Client) -> None:
    retried = {"key": "a", "kind": "builtin.fail", "arguments": {"message": "not yet", "times": 2}}
    task = submit(http, {**retried, "maxAttempts": 3, "backoffSeconds": 0.5})
    path = f"{INSTANCES}/{task['id']}/subtasks/{task['subtasks'][0]['id']}/log"

    followed = events(http, path)

    assert [one.event for one in followed][-2:] == ["log", "end"]
    assert len(followed) > 2
    plain = http.get(path).json()["data"]
    assert "".join(json.loads(one.data)["log"] for one in followed[:-1]) == plain["log"]
    assert plain["log"].count("{EXECUTE}") == 3
    assert followed[-2].id == plain["cursor"]
    assert json.loads(followed[-1].data) == {"state": "SUCCESSFUL"}


def test_a_long_log_is_followed_while_it_is_written(http: httpx.Client) -> None:
    task = submit(http, {"key": "a", "kind": "builtin.log", "arguments": {"lines": 100_000}})
    path = f"{INSTANCES}/{task['id']}/subtasks/{task['subtasks'][0]['id']}/log"

    followed = events(http, path)

    assert len(followed) > 3
    log = "".join(json.loads(one.data)["log"] for one in followed[:-1])
    assert log.splitlines()[1:] == [f"line {number}" for number in range(1, 100_001)]
    assert followed[-1].event == "end"


@pytest.mark.parametrize("call", CALLS)
def test_the_documented_calls_stream_to_the_end(dev: Dev, http: httpx.Client, call: str) -> None:
    task = submit(http, {"key": "a", "kind": "builtin.log", "arguments": {"lines": ["said"]}})
    given = {"URL": dev.url, "TOKEN": dev.token, "TASK": task["id"], "SUBTASK": task["subtasks"][0]["id"]}
    *options, url = shlex.split(re.sub(r"\$([A-Z]+)", lambda name: str(given[name[1]]), call))
    headers = dict(one.split(": ", 1) for one in options if one != "-H")

    text = httpx.get(url, headers={"Accept": "*/*", **headers}, timeout=30, trust_env=False).text

    assert text.endswith('event: end\ndata: {"state":"SUCCESSFUL"}\n\n')
