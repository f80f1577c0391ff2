"""What commands show on a terminal, and what they write where there is none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Dev, environment, submission
from tests.acceptance.terminal import COLUMNS, run_on_terminal

SLOW = {"key": "slow", "kind": "builtin.sleep", "foreach": [0.3, 0.6], "arguments": {"seconds": {"$item": ""}}}
LONG_NAME = " ".join(["a name of very many words"] * 8)


@pytest.fixture(scope="module")
def done(dev: Dev) -> int:
    """Return a task with a long name that has ended well."""
    document = submission({"key": "say", "kind": "builtin.log", "arguments": {"lines": ["one"]}}, name=LONG_NAME)
    return int(dev.run_json("submit", "-", "--wait", stdin=document)["id"])


def test_waiting_shows_a_live_bar_and_the_outcome_in_colour(dev: Dev) -> None:
    (dev.directory / "slow.json").write_text(submission(SLOW))

    shown = run_on_terminal("submit", "slow.json", "--wait", cwd=dev.directory)

    assert shown.returncode == 0
    assert "━" in shown.text
    assert "RUNNING" in shown.text
    assert "2/2" in shown.text
    last = shown.text.rstrip().splitlines()[-1]
    assert re.search(r"task \d+ \x1b\[32mSUCCESSFUL\x1b\[0m 2/2 successful", last)


def test_why_nothing_happens_is_told_above_the_bar(dev: Dev) -> None:
    document = submission({"key": "first", "kind": "builtin.noop", "queue": "nobody"}, deadlineSeconds=7)
    (dev.directory / "nobody.json").write_text(document)

    shown = run_on_terminal("submit", "nobody.json", "--wait", cwd=dev.directory)

    assert shown.returncode == 1
    assert shown.text.count("has not moved for 5 s: subtask 'first' waits: no live worker serves the queue nobody") == 1


def test_watching_a_failure_leaves_the_bar_and_shows_a_table_of_what_failed(dev: Dev) -> None:
    task = dev.run("submit", "--kind", "builtin.fail", "--arg", "message=out of luck").stdout.strip()

    shown = run_on_terminal("status", task, "--watch", cwd=dev.directory)

    assert shown.returncode == 1
    assert "\x1b[?25h" in shown.text  # the cursor is back
    assert "out of luck" in shown.text
    assert "\x1b[31mFAILED" in shown.text


def test_a_table_fits_the_terminal_and_keeps_ids_and_states_whole(dev: Dev, done: int) -> None:
    shown = run_on_terminal("list", "--name", LONG_NAME[:20], cwd=dev.directory)

    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in shown.text.splitlines()]
    assert max(len(line) for line in lines) <= COLUMNS
    assert any(line.startswith(f"{done} ") and "SUCCESSFUL" in line for line in lines)


def test_json_is_indented_on_a_terminal_only(dev: Dev, done: int) -> None:
    shown = run_on_terminal("status", str(done), "--json", cwd=dev.directory)
    piped = dev.run("status", str(done), "--json")

    assert '\n  "state": "SUCCESSFUL"' in shown.text.replace("\r", "")
    assert piped.stdout.count("\n") == 1


def test_without_a_terminal_a_row_is_a_line_and_its_cells_are_parted_by_tabs(dev: Dev, done: int) -> None:
    listed = dev.run("list", "--name", LONG_NAME[:20], COLUMNS="40")

    header, row = (line.split("\t") for line in listed.stdout.splitlines())
    assert header == ["ID", "STATE", "NAME", "PROGRESS", "CREATED", "ERROR"]
    assert row[:4] == [str(done), "SUCCESSFUL", LONG_NAME, "1/1 successful"]
    assert "\x1b" not in listed.stdout


def test_colour_is_left_out_where_the_environment_asks_for_it_but_there_is_no_terminal(dev: Dev, done: int) -> None:
    shown = dev.run("show", str(done), FORCE_COLOR="1", TERM="xterm-256color")

    assert "\x1b" not in shown.stdout


def test_a_name_cannot_draw_on_the_terminal_nor_make_two_rows_of_one(dev: Dev) -> None:
    name = "red \x1b[31m and\ttab"
    document = submission({"key": "a", "kind": "builtin.fail", "arguments": {"message": "one\ntwo"}}, name=name)
    task = str(dev.run_json("submit", "-", stdin=document)["id"])
    dev.run("status", task, "--watch")

    shown = run_on_terminal("show", task, cwd=dev.directory)
    listed = dev.run("list", "--name", "red")

    assert "\x1b[31m and" not in shown.text
    assert len(listed.stdout.splitlines()) == 2
    assert listed.stdout.count("\t") == 10


@pytest.mark.parametrize(
    "words", ["list --size 2000", "show {task}", "status {task}", "log {task} say", "kinds", "check", "--help"]
)
def test_nobody_reading_the_output_ends_a_command_quietly_with_141(dev: Dev, done: int, words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    ended = subprocess.run(
        [sys.executable, "-P", "-m", "taskserver", *words.format(task=done).split()],
        cwd=dev.directory,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)

    assert (ended.returncode, ended.stderr) == (141, "")


def test_head_takes_the_first_line_of_a_long_answer(dev: Dev) -> None:
    many = submission({"key": "many", "kind": "builtin.noop", "foreach": list(range(3000))})
    task = dev.run_json("submit", "-", stdin=many)["id"]
    line = f"set -o pipefail; {sys.executable} -P -m taskserver show {task} | head -1"

    ended = subprocess.run(
        ["bash", "-c", line], cwd=dev.directory, env=environment(), capture_output=True, text=True, check=False
    )

    assert ended.returncode == 141
    assert ended.stdout.startswith(f"task {task} ")
    assert ended.stderr == ""


def test_a_full_disk_below_the_output_is_told(dev: Dev) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "taskserver", "kinds"],
            cwd=dev.directory,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (ended.returncode, ended.stderr) == (1, "error: No space left on device\n")
