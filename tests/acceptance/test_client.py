"""The client against the whole product, in both faces; and the examples of its page."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from schema.states import SubtaskState, TaskState
from taskserver.client import (
    AsyncTaskServer,
    Forbidden,
    IdempotencyKeyReused,
    InvalidRequest,
    InvalidSubmission,
    NotFound,
    TaskFailed,
    TaskServer,
    TaskTimeout,
    Unauthenticated,
)
from tests.acceptance.conftest import COMMAND_SECONDS, Dev, environment

PAGE = Path(__file__).parents[2].joinpath("docs/client.md").read_text()
SLOW = {"key": "slow", "kind": "builtin.sleep", "arguments": {"seconds": 1}}
SPOKEN = {"key": "words", "kind": "builtin.log", "arguments": {"lines": ["first line", "second line"]}}


def echo(key: str, *upstreams: str, **arguments: object) -> Mapping[str, object]:
    return {"key": key, "kind": "builtin.echo", "upstreams": list(upstreams), "arguments": arguments}


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_of_the_page_run(dev: Dev, example: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=dev.directory,
        env=environment(TASKSERVER_URL=dev.url, TASKSERVER_TOKEN=dev.token),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "SUCCESSFUL" in done.stdout
    assert "############{EXECUTE}" in done.stdout


def test_a_task_is_submitted_followed_and_asked_about(dev: Dev) -> None:
    states: list[TaskState] = []
    with dev.client() as server:
        task = server.submit(name="all of it", subtasks=[SLOW, echo("end", "slow", said=1)], priority=9)

        settled = task.wait(timeout=60, on_progress=lambda status: states.append(status.state))
        detail = task.detail()
        plan = task.plan()
        operations = task.operations()
        found = server.tasks(name="all of it", size=1)
        statuses = server.statuses([task.id, 2**40])

    assert states[0] in {TaskState.CREATED, TaskState.RUNNING}
    assert states[-1] is settled.state is TaskState.SUCCESSFUL
    assert [(one.key, one.status, one.result) for one in detail.subtasks] == [
        ("slow", SubtaskState.SUCCESSFUL, None),
        ("end", SubtaskState.SUCCESSFUL, {"said": 1}),
    ]
    assert task.task_id == detail.task_id
    assert plan.mermaid.startswith("flowchart")
    assert operations == []
    assert [one.id for one in found] == [task.id]
    assert [one.id for one in statuses.contents] == [task.id]
    assert list(statuses.missing) == [2**40]


def test_a_wait_that_is_too_short_or_for_a_failure_is_told(dev: Dev) -> None:
    failing = {"key": "bad", "kind": "builtin.fail", "arguments": {"message": "out of luck"}}
    with dev.client() as server:
        slow, bad = server.submit_batch([{"subtasks": [SLOW]}, {"subtasks": [failing]}])

        with pytest.raises(TaskTimeout) as timeout:
            slow.wait(timeout=0.1)
        with pytest.raises(TaskFailed, match="out of luck"):
            bad.wait(timeout=60, raise_on_failure=True)
        settled = slow.wait(timeout=60)

    assert not timeout.value.last_status.is_settled
    assert settled.is_successful


def test_a_key_makes_one_task_of_two_submissions(dev: Dev) -> None:
    document = {"subtasks": [echo("a")]}
    with dev.client() as server:
        first = server.submit(document, idempotency_key="client-one-task")
        second = server.submit(document, idempotency_key="client-one-task")
        with pytest.raises(IdempotencyKeyReused, match="client-one-task"):
            server.submit(subtasks=[echo("b")], idempotency_key="client-one-task")

    assert first.id == second.id


def test_what_is_wrong_has_its_own_error(dev: Dev) -> None:
    reader = dev.run_json("principals", "create", "client-reader", "--role", "TASK_VIEWER", "--account", "0")["token"]
    with dev.client() as server, TaskServer(dev.url, reader) as viewer, TaskServer(dev.url, "nobody") as nobody:
        with pytest.raises(InvalidSubmission, match=r"builtin\.ech"):
            server.submit(subtasks=[{"key": "a", "kind": "builtin.ech"}])
        with pytest.raises(InvalidRequest) as wrong:
            server.submit(subtasks=[echo("a")], priority=10)
        with pytest.raises(NotFound):
            server.task(2**40).status()
        with pytest.raises(Forbidden, match="TASK_SUBMITTER"):
            viewer.submit(subtasks=[echo("a")])
        with pytest.raises(Unauthenticated):
            nobody.kinds()

    assert [one.field for one in wrong.value.sub_errors] == ["/priority"]


def test_definitions_are_stored_submitted_and_removed(dev: Dev) -> None:
    document = {"subtasks": [echo("a", to={"$arg": "/to"})]}
    with dev.client() as server:
        first = server.put_definition("client.greeting", document)
        again = server.put_definition("client.greeting", document)
        changed = server.put_definition("client.greeting", {"subtasks": [SPOKEN]})
        task = server.submit(definition="client.greeting")
        task.wait(timeout=60)
        names = [one.name for one in server.definitions()]
        oldest = server.definition("client.greeting", version=1)
        server.delete_definition("client.greeting")
        with pytest.raises(NotFound):
            server.definition("client.greeting")

    assert (first.version, again.version, changed.version) == (1, 1, 2)
    assert "client.greeting" in names
    assert oldest.document["subtasks"][0]["key"] == "a"


def test_a_log_is_read_and_followed_by_key_and_by_id(dev: Dev) -> None:
    with dev.client() as server:
        task = server.submit(subtasks=[SLOW, {**SPOKEN, "upstreams": ["slow"]}])

        followed = "".join(task.subtask("words").follow_log())
        words = task.subtask("words").detail()
        whole = task.subtask(words.id).log()
        last = task.subtask(str(words.id)).log(tail=1)

    assert followed == whole
    assert whole.endswith("first line\nsecond line\n")
    assert last == "second line\n"
    assert [(one.attempt, one.status) for one in words.attempts] == [(1, "SUCCESSFUL")]


def test_the_awaiting_client_does_the_same(dev: Dev) -> None:
    async def ask() -> tuple[list[bool], str]:
        async with AsyncTaskServer(dev.url, dev.token) as server:
            tasks = [await server.submit(subtasks=[SLOW]), await server.submit(subtasks=[SPOKEN])]
            settled = await asyncio.gather(*(task.wait(timeout=60) for task in tasks))
            log = "".join([text async for text in tasks[1].subtask("words").follow_log()])
        return [one.is_successful for one in settled], log

    successes, log = asyncio.run(ask())

    assert successes == [True, True]
    assert log.endswith("first line\nsecond line\n")


def test_waiting_and_submitting_outlive_a_server_that_is_killed(dev: Dev) -> None:
    with dev.client() as server:
        task = server.submit(subtasks=[SLOW, {**SLOW, "key": "slower", "upstreams": ["slow"]}])
        changes = task.changes()
        next(changes)
        before = dev.pid("server")
        assert before is not None

        os.kill(before, signal.SIGKILL)
        meanwhile = server.submit(subtasks=[echo("a")])
        *_, last = changes
        settled = meanwhile.wait(timeout=60)

    assert last.is_successful
    assert settled.is_successful
