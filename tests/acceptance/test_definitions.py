"""What docs/definitions.md says is what happens: a worker stores the definitions of its modules, and they are submitted by name."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from taskserver.client import NotFound
from tests.acceptance.conftest import COMMAND_SECONDS, Dev, environment, running_dev
from tests.eventually import eventually

PAGE = Path(__file__).parents[2].joinpath("docs", "definitions.md").read_text()
DOCUMENT = {"subtasks": [{"key": "a", "kind": "builtin.noop"}]}


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """A `dev` with the page's own module."""
    directory = tmp_path_factory.mktemp("hosts")
    (directory / "hosts.py").write_text(block("python"))
    with running_dev(directory, "--handlers", "hosts", "--concurrency", "1", "--no-flower") as dev:
        yield dev


def test_the_commands_of_the_page_submit_the_definition_of_the_module(hosts: Dev) -> None:
    submit, show = (shlex.split(line)[1:] for line in block("sh").splitlines())

    task = hosts.run_json(*submit)
    shown = hosts.run(*show)

    assert (task["state"], task["taskType"]) == ("SUCCESSFUL", "prepare_host")
    assert [one.get("result") for one in task["subtasks"]] == ["10.0.0.7:22 answers", True]
    assert task["arguments"] == {"host": "10.0.0.7", "port": 22, "password": "******"}
    assert shown.stdout.startswith("definition prepare_host version 1\n")
    assert {'arguments: {"port": 22}', 'redact: ["password"]', "onDuplicate: return"} <= set(shown.stdout.splitlines())


def test_a_worker_that_starts_again_makes_no_new_version(hosts: Dev) -> None:
    with hosts.client() as server:
        before = server.definition("prepare_host")
        started = {one.pid for one in server.workers()}
        worker = hosts.pid("worker")
        assert worker is not None
        psutil.Process(worker).kill()
        eventually(lambda: {one.pid for one in server.workers()} - started, within=30, what="a worker starts again")

        assert server.definition("prepare_host") == before


def test_a_definition_is_put_shown_listed_and_deleted(hosts: Dev) -> None:
    file = hosts.directory / "d.json"
    file.write_text(json.dumps(DOCUMENT))

    first = hosts.run_json("definitions", "put", "by_hand", str(file))
    same = hosts.run_json("definitions", "put", "by_hand", "-", stdin=file.read_text())
    document = hosts.run("definitions", "show", "by_hand", "--document")
    second = hosts.run("definitions", "put", "by_hand", "-", stdin=json.dumps({**DOCUMENT, "concurrency": 1}))
    listed = hosts.run("definitions", "list")
    planned = hosts.run_json("plan", "-", stdin='{"definition": "by_hand"}')
    task = hosts.run_json("submit", "--definition", "by_hand", "--wait")
    deleted = hosts.run_json("definitions", "delete", "by_hand")
    gone = hosts.run("submit", "--definition", "by_hand")

    assert (first["version"], same["version"]) == (1, 1)
    assert json.loads(document.stdout) == DOCUMENT
    assert second.stdout == "definition by_hand version 2\n"
    assert [line.split("\t")[:2] for line in listed.stdout.splitlines()] == [
        ["NAME", "VERSION"],
        ["by_hand", "2"],
        ["prepare_host", "1"],
    ]
    assert planned["fragments"][0]["canvas"] == {"unit": ["a"]}
    assert (task["state"], task["taskType"]) == ("SUCCESSFUL", "by_hand")
    assert deleted == {"name": "by_hand", "deleted": True}
    assert gone.returncode == 3
    assert "definition 'by_hand' does not exist" in gone.stderr
    assert hosts.run_json("definitions", "show", "by_hand", "--version", "1")["subtasks"] == DOCUMENT["subtasks"]
    with hosts.client() as server, pytest.raises(NotFound):
        server.definition("by_hand")


def test_what_is_wrong_with_a_definition_is_said_with_its_place(hosts: Dev) -> None:
    refused = hosts.run("definitions", "put", "wrong", "-", stdin='{"subtasks": [{"key": "a", "kind": "builtin.nop"}]}')
    no_object = hosts.run("definitions", "put", "wrong", "-", stdin="[]")

    assert refused.returncode == 3
    assert "/subtasks/0/kind" in refused.stderr
    assert "builtin.noop" in refused.stderr
    assert no_object.returncode == 2


@pytest.mark.parametrize(
    ("subtask", "place", "message"),
    [
        ({"kind": "builtin.nop"}, "/subtasks/0/kind", "did you mean 'builtin.noop'"),
        ({"kind": "builtin.sleep", "arguments": {"seconds": "x"}}, "/subtasks/0/arguments/seconds", "is not what kind"),
    ],
)
def test_a_module_with_a_wrong_definition_ends_the_worker_with_its_line(
    hosts: Dev, tmp_path: Path, subtask: dict[str, object], place: str, message: str
) -> None:
    (tmp_path / "wrong.py").write_text(
        f'from workers import definition\n\ndefinition("wrong", subtasks=[{{"key": "a", **{subtask}}}])\n'
    )

    done = subprocess.run(
        [sys.executable, "-P", "-m", "celery", "-A", "workers.app", "worker", "--concurrency", "1"],
        cwd=tmp_path,
        env=environment(**{**hosts.environment, "TASKSERVER_HANDLERS": "wrong"}),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )

    last = done.stderr.splitlines()[-1]
    assert done.returncode == os.EX_CONFIG
    assert last.startswith("error: ")
    assert "wrong.py:3" in last
    assert place in last
    assert message in last
