"""What the README's first screen says is what happens."""

import json
import re
from pathlib import Path

import pytest

from tests.acceptance.conftest import Dev

README = Path(__file__).parents[2].joinpath("README.md").read_text()


def block(beginning: str) -> str:
    """Return the fenced block of the README that begins with this line."""
    found = re.search(rf"```\w*\n({re.escape(beginning)}.*?)```", README, re.DOTALL)
    assert found is not None, f"no block begins with {beginning!r}"
    return found[1]


def test_the_ten_lines_submit_and_ask(dev: Dev) -> None:
    shell = block("export PATH")
    (dev.directory / "job.json").write_text(shell.partition("<<'JSON'\n")[2].partition("JSON\n")[0])
    commands = [line.split("#")[0].split()[1:] for line in shell.splitlines() if line.startswith("taskserver ")]

    submitted = dev.run_json(*commands[0])
    number = str(submitted["id"])
    shown = [dev.run(*(number if word == "1" else word for word in command)) for command in commands[1:]]

    assert [command[0] for command in commands] == ["submit", "list", "show", "log"]
    assert submitted["state"] == "SUCCESSFUL"
    assert [done.returncode for done in shown] == [0, 0, 0]
    assert "wait[2]" in shown[1].stdout
    assert "{EXECUTE}" in shown[2].stdout


def test_the_result_of_one_subtask_reaches_another(dev: Dev) -> None:
    text = block("export PATH").partition("<<'JSON'\n")[2].partition("JSON\n")[0]

    submitted = dev.run_json("submit", "-", "--wait", stdin=json.dumps(json.loads(text)))

    with dev.client() as server:
        detail = server.detail(submitted["id"])
    results = {subtask.key: subtask.result for subtask in detail.subtasks}
    assert results["end"] == {"said": "hello"}


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_the_make_targets_exist(target: str) -> None:
    makefile = Path(__file__).parents[2].joinpath("Makefile").read_text()

    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
