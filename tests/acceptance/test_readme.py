"""What the README's first screen says is what happens."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import COMMAND_SECONDS, Dev, environment, running_dev
from tests.eventually import eventually

README = Path(__file__).parents[2].joinpath("README.md").read_text()


def block(beginning: str) -> str:
    """Return the fenced block of the README that begins with this line."""
    found = re.search(rf"```\w*\n({re.escape(beginning)}.*?)```", README, re.DOTALL)
    assert found is not None, f"no block begins with {beginning!r}"
    return found[1]


def test_the_ten_lines_submit_and_ask(dev: Dev) -> None:
    dev.run_json("submit", "--kind", "builtin.noop")  # so that its ids are not the first ones, as after `make demo`
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    done = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", block("export PATH")],
        cwd=dev.directory,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    number = re.search(r"^task (\d+) submitted", done.stderr, re.MULTILINE)
    assert number is not None
    assert f"task {number[1]} SUCCESSFUL 6/6 successful" in done.stdout
    assert "wait[2]" in done.stdout
    assert "{EXECUTE}" in done.stdout


def test_the_result_of_one_subtask_reaches_another(dev: Dev) -> None:
    text = block("export PATH").partition("<<'JSON'\n")[2].partition("JSON\n")[0]

    submitted = dev.run_json("submit", "-", "--wait", stdin=json.dumps(json.loads(text)))

    with dev.client() as server:
        detail = server.task(submitted["id"]).detail()
    results = {subtask.key: subtask.result for subtask in detail.subtasks}
    assert results["end"] == {"said": "hello"}


def test_ten_minutes_lead_from_a_kind_and_a_definition_to_flower(tmp_path: Path) -> None:
    (tmp_path / "hosts.py").write_text(block("# hosts.py"))
    (tmp_path / "order.py").write_text(block("# order.py"))

    with running_dev(tmp_path, "--handlers", "hosts", "--flower-port", "0") as dev:
        done = subprocess.run(
            [sys.executable, "order.py"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "SUCCESSFUL 10.0.0.7 has 8 CPUs\n"), done.stderr
        with dev.client() as server:
            [task] = server.tasks().contents
            link = server.task(task.id).subtask("check").detail().document["flowerUrl"]
        page = link.replace("/task/", "/api/task/info/")
        shown = eventually(lambda: _flower(page, dev.token), within=20, what="Flower knows the subtask")
        assert (shown["name"], shown["root_id"]) == ("host.check", task.task_id)


def _flower(page: str, token: str) -> dict[str, Any] | None:
    answer = httpx.get(page, auth=("admin", token), timeout=10, trust_env=False)
    return dict(answer.json()) if answer.status_code == 200 else None


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_the_make_targets_exist(target: str) -> None:
    makefile = Path(__file__).parents[2].joinpath("Makefile").read_text()

    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
