"""What the README's first screen says is what happens."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import COMMAND_SECONDS, Dev, environment

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
    assert f"task {number[1]} SUCCESSFUL 5/5 successful" in done.stdout
    assert "wait[2]" in done.stdout
    assert "{EXECUTE}" in done.stdout


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
