"""Completion in a real bash, and the scripts for the other shells."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Dev, environment, submission

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# What readline does at TAB: call the function of the command with the words of the line.
PRESS_TAB = """
eval "$(taskserver --show-completion)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
function=$(complete -p taskserver | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" taskserver
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(dev: Dev, *words: str, **env: str) -> list[str]:
    """Return what bash offers after these words."""
    done = subprocess.run(
        ["bash", "-c", PRESS_TAB, "bash", "taskserver", *words],
        cwd=dev.directory,
        env=environment(PATH=PATH, **env),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_offers_the_commands(dev: Dev) -> None:
    assert offered(dev, "st") == ["status"]
    assert {"retry", "resume", "rollback"} <= set(offered(dev, "r"))


def test_bash_offers_what_the_server_knows(dev: Dev) -> None:
    task = dev.run_json("submit", "-", stdin=submission({"key": "mount", "kind": "builtin.noop", "foreach": [1, 2]}))

    assert str(task["id"]) in offered(dev, "show", "")
    assert offered(dev, "log", str(task["id"]), "mount[1") == ["mount[1]"]
    assert "builtin.echo" in offered(dev, "submit", "--kind", "builtin.e")
    assert offered(dev, "list", "--state", "SUS") == ["SUSPENDED"]


def test_a_server_that_does_not_answer_offers_nothing_and_says_nothing(dev: Dev) -> None:
    assert offered(dev, "show", "", TASKSERVER_URL="http://127.0.0.1:1", TASKSERVER_TOKEN="t") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_calls_the_program(dev: Dev, shell: str) -> None:
    done = dev.run(_TASKSERVER_COMPLETE=f"source_{shell}")

    assert done.returncode == 0
    assert done.stderr == ""
    assert f"_TASKSERVER_COMPLETE=complete_{shell}" in done.stdout
