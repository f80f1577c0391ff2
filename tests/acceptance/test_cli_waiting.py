"""Waiting for a task: signals end the waiting and not the task, a key is one task, a log is followed to its end."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.conftest import COMMAND_SECONDS, Dev, environment, submission

NAP = submission({"key": "nap", "kind": "builtin.sleep", "arguments": {"seconds": 10}})


@contextmanager
def started(dev: Dev, *arguments: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a command beside the test for the block."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "taskserver", *arguments],
        cwd=dev.directory,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=COMMAND_SECONDS)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_waiting_and_says_how_to_go_on_with_the_task(dev: Dev, number: int, code: int) -> None:
    (dev.directory / "nap.json").write_text(NAP)

    with started(dev, "submit", "nap.json", "--wait", "--json") as waiting:
        assert waiting.stderr is not None
        task = waiting.stderr.readline().split()[1]
        waiting.send_signal(number)
        out, err = waiting.communicate(timeout=COMMAND_SECONDS)

    state = dev.run_json("status", task)["state"]
    dev.run("cancel", task)
    assert waiting.returncode == code
    assert err.splitlines()[-1].endswith(f"`taskserver status {task} --watch` waits again")
    assert json.loads(out)["error"] == {
        "code": 10000,
        "type": "Interrupted",
        "message": err.splitlines()[-1].removeprefix("error: "),
        "target": task,
    }
    assert state in {"CREATED", "RUNNING"}


def test_who_waits_for_a_worker_that_is_not_there_is_told_so_once(dev: Dev) -> None:
    document = submission(
        {"key": "first", "kind": "builtin.noop", "queue": "nobody"},
        {"key": "second", "kind": "builtin.noop", "upstreams": ["first"]},
    )
    (dev.directory / "nobody.json").write_text(document)

    with started(dev, "submit", "nobody.json", "--wait") as waiting:
        assert waiting.stderr is not None
        lines = [waiting.stderr.readline()]
        task = lines[0].split()[1]
        while "has not moved" not in lines[-1]:
            lines.append(waiting.stderr.readline())
        dev.run("cancel", task)
        _, rest = waiting.communicate(timeout=COMMAND_SECONDS)

    assert lines[-1] == (
        f"task {task} has not moved for 5 s: subtask 'first' waits: no live worker serves the queue nobody: start one;"
        f" `taskserver doctor {task}` says more\n"
    )
    assert "has not moved" not in rest
    assert waiting.returncode == 1


def test_what_runs_long_is_waited_for_without_a_word(dev: Dev) -> None:
    document = submission({"key": "nap", "kind": "builtin.sleep", "arguments": {"seconds": 6}})
    (dev.directory / "long.json").write_text(document)

    done = dev.run("submit", "long.json", "--wait")

    assert done.returncode == 0
    assert "has not moved" not in done.stderr


def test_an_interrupt_while_a_command_is_still_being_loaded_ends_it_quietly(dev: Dev) -> None:
    with started(dev, "list", PYTHONPROFILEIMPORTTIME="1") as loading:
        assert loading.stderr is not None
        while "typer" not in loading.stderr.readline():
            assert loading.poll() is None
        loading.send_signal(signal.SIGINT)
        out, err = loading.communicate(timeout=COMMAND_SECONDS)

    assert loading.returncode == 130
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("import time:")] == []


def test_what_runs_in_the_background_is_not_interrupted_by_the_terminal(dev: Dev) -> None:
    document = submission({"key": "nap", "kind": "builtin.sleep", "arguments": {"seconds": 1}})
    (dev.directory / "short.json").write_text(document)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it

    with started(dev, "submit", "short.json", "--wait") as waiting:
        signal.signal(signal.SIGINT, before)
        assert waiting.stderr is not None
        waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        out, _ = waiting.communicate(timeout=COMMAND_SECONDS)

    assert waiting.returncode == 0
    assert "SUCCESSFUL" in out


@pytest.mark.parametrize(("key", "cure"), [((), "taskserver list"), (("--idempotency-key", "k"), "the same key")])
def test_an_interrupt_before_the_answer_says_that_the_task_may_be_there(
    dev: Dev, key: tuple[str, ...], cure: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"TASKSERVER_URL": url, "TASKSERVER_TOKEN": "t"}
        with started(dev, "submit", "--kind", "builtin.noop", *key, **env) as submitting:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                submitting.send_signal(signal.SIGINT)
                out, err = submitting.communicate(timeout=COMMAND_SECONDS)

    assert submitting.returncode == 130
    assert out == ""
    assert "may have been submitted" in err
    assert cure in err


def test_the_same_key_is_the_same_task_and_is_waited_for_again(dev: Dev) -> None:
    words = ("submit", "--kind", "builtin.echo", "--arg", "day=1", "--idempotency-key", "cli-once")

    first = dev.run_json(*words, "--wait")
    second = dev.run_json(*words, "--wait")
    other = dev.run("submit", "--kind", "builtin.echo", "--arg", "day=2", "--idempotency-key", "cli-once")

    assert first["id"] == second["id"]
    assert second["state"] == "SUCCESSFUL"
    assert other.returncode == 3
    assert "cli-once" in other.stderr


def test_options_of_the_line_come_before_what_the_file_says(dev: Dev) -> None:
    document = submission(
        {"key": "say", "kind": "builtin.echo", "arguments": {"text": {"$arg": "/text"}}},
        name="from the file",
        arguments={"text": "from the file", "rest": 1},
    )

    task = dev.run_json(
        *("submit", "-", "--name", "from the line", "--arg", "text=from the line"),
        *("--instance-id", "901", "--on-duplicate", "allow", "--priority", "9", "--wait"),
        stdin=document,
    )

    assert task["name"] == "from the line"
    assert task["arguments"] == {"text": "from the line", "rest": 1}
    assert (task["instanceId"], task["priority"]) == (901, 9)
    assert task["subtasks"][0]["result"] == {"text": "from the line"}


def test_a_duplicate_is_refused_with_the_task_that_is_at_work(dev: Dev) -> None:
    words = ("submit", "-", "--instance-id", "902")
    holder = dev.run_json(*words, stdin=NAP)["id"]

    refused = dev.run(*words, "--json", stdin=NAP)
    returned = dev.run(*words, "--on-duplicate", "return", stdin=NAP)

    dev.run("cancel", str(holder))
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["error"]["target"] == str(holder)
    assert returned.stdout == f"{holder}\n"


def test_a_definition_is_submitted_by_name_with_its_arguments(dev: Dev) -> None:
    document = submission({"key": "say", "kind": "builtin.echo", "arguments": {"text": {"$arg": "/text"}}})
    dev.run_json("definitions", "put", "cli_say", "-", stdin=document)

    task = dev.run_json("submit", "--definition", "cli_say", "--arg", "text=hello", "--wait")
    listed = dev.run_json("list", "--task-type", "cli_say")
    unknown = dev.run("submit", "--definition", "cli_sai")

    assert task["subtasks"][0]["result"] == {"text": "hello"}
    assert [one["id"] for one in listed["contents"]] == [task["id"]]
    assert unknown.returncode == 3
    assert "cli_say" in unknown.stderr


def test_a_log_is_followed_as_it_is_written_until_the_subtask_has_ended(dev: Dev) -> None:
    task = dev.run(
        "submit",
        "-",
        stdin=submission(
            {"key": "nap", "kind": "builtin.sleep", "arguments": {"seconds": 1}},
            {"key": "say", "kind": "builtin.log", "upstreams": ["nap"], "arguments": {"lines": ["one", "two"]}},
        ),
    ).stdout.strip()

    followed = dev.run("log", task, "say", "--follow")
    as_json = dev.run_json("log", task, "say", "--follow")
    plain = dev.run("log", task, "say")

    assert followed.returncode == 0
    assert followed.stdout.endswith("one\ntwo\n")
    assert followed.stdout == plain.stdout == as_json["log"]
