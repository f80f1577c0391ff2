"""Operating tasks from the command line: what becomes of them, and what is refused."""

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import Dev, submission

FAILING = {"key": "bad", "kind": "builtin.fail", "arguments": {"message": "out of luck", "times": 1}}
AFTER = {"key": "after", "kind": "builtin.noop", "upstreams": ["bad"]}
NAP = {"key": "nap", "kind": "builtin.sleep", "arguments": {"seconds": 30}}


def settled(dev: Dev, *subtasks: dict[str, object], **members: object) -> str:
    """Submit a task, wait for its end, and return its id."""
    done = dev.run("submit", "-", "--wait", "--json", stdin=submission(*subtasks, **members))
    return str(json.loads(done.stdout)["id"])


@pytest.fixture
def failed(dev: Dev) -> str:
    """Return a task that has failed and would succeed if it ran again."""
    return settled(dev, FAILING, AFTER)


@pytest.fixture
def napping(dev: Dev) -> str:
    """Return a task with a subtask that runs."""
    task = dev.run("submit", "-", stdin=submission(NAP, {"key": "next", "kind": "builtin.noop", "upstreams": ["nap"]}))
    number = task.stdout.strip()
    with dev.client() as server:
        next(status for status in server.task(int(number)).changes() if status.count("RUNNING"))
    return number


def test_retry_runs_a_failed_task_again_and_the_audit_says_why(dev: Dev, failed: str) -> None:
    retried = dev.run("retry", failed, "--reason", "the disk is back")

    ended = dev.run("status", failed, "--watch")
    audit = dev.run_json("operations", failed)["contents"]
    table = dev.run("operations", failed)
    assert retried.returncode == 0
    assert retried.stdout.startswith(f"task {failed} RUNNING RETRY ")
    assert ended.returncode == 0
    assert [(one["principal"], one["reason"]) for one in audit] == [("admin", "the disk is back")]
    assert "the disk is back" in table.stdout


@pytest.mark.parametrize("name", ["key", "id"])
def test_retry_of_a_subtask_takes_its_key_or_its_id(dev: Dev, failed: str, name: str) -> None:
    subtask = dev.run_json("show", failed)["subtasks"][0]

    retried = dev.run("retry", failed, str(subtask[name]))

    assert retried.returncode == 0
    assert retried.stdout.startswith(f"task {failed} subtask {subtask['id']} bad ")
    assert dev.run("status", failed, "--watch").returncode == 0


def test_skip_lets_the_task_go_on_without_the_subtask(dev: Dev, failed: str) -> None:
    skipped = dev.run_json("skip", failed, "bad", "--reason", "not needed")

    assert skipped["status"] == "SUCCESSFUL"
    assert skipped["operation"] == "SKIP"
    assert dev.run("status", failed, "--watch").returncode == 0


def test_cancel_stops_what_runs(dev: Dev, napping: str) -> None:
    cancelled = dev.run("cancel", napping)

    ended = dev.run("status", napping, "--watch")
    assert cancelled.returncode == 0
    assert cancelled.stdout.startswith(f"task {napping} ")
    assert ended.returncode == 1
    assert f"task {napping} REVOKED" in ended.stdout


def test_cancel_of_a_subtask_fails_it(dev: Dev, napping: str) -> None:
    cancelled = dev.run("cancel", napping, "nap")

    ended = dev.run("status", napping, "--watch", "--json")
    assert cancelled.returncode == 0
    assert json.loads(ended.stdout)["state"] == "FAILED"
    assert json.loads(ended.stdout)["subtasks"][0]["operation"] == "CANCEL"


def test_pause_holds_a_task_until_resume(dev: Dev, napping: str) -> None:
    paused = dev.run_json("pause", napping)
    resumed = dev.run_json("resume", napping)
    again = dev.run("resume", napping)

    dev.run("cancel", napping)
    assert paused["state"] == "SUSPENDED"
    assert resumed["state"] == "RUNNING"
    assert again.returncode == 3


def test_rollback_undoes_a_failed_task(dev: Dev, failed: str) -> None:
    begun = dev.run_json("rollback", failed)

    ended = dev.run("status", failed, "--watch", "--json")
    assert begun["operation"] == "ROLLBACK"
    assert json.loads(ended.stdout)["state"] == "ROLLED_BACK"


def test_abandon_gives_a_failed_task_up(dev: Dev, failed: str) -> None:
    given_up = dev.run_json("abandon", failed)
    retried = dev.run("retry", failed, "--json")

    assert (given_up["state"], given_up["abandoned"]) == ("REVOKED", True)
    assert retried.returncode == 3
    assert json.loads(retried.stdout)["error"]["code"] == 20003


@pytest.mark.parametrize("verb", ["retry", "cancel", "pause", "resume", "rollback", "abandon"])
def test_a_verb_that_the_state_forbids_is_refused_with_3_and_a_reason(dev: Dev, verb: str) -> None:
    task = settled(dev, {"key": "a", "kind": "builtin.noop"})

    refused = dev.run(verb, task)

    assert refused.returncode == 3
    assert refused.stdout == ""
    assert "SUCCESSFUL" in refused.stderr


def test_many_tasks_are_retried_at_once_and_what_is_refused_is_told(dev: Dev) -> None:
    failed, well = settled(dev, FAILING), settled(dev, {"key": "a", "kind": "builtin.noop"})

    many = dev.run("retry", "--ids", f"{failed},{well}")

    rows = {line.split("\t")[0]: line.split("\t")[1] for line in many.stdout.splitlines()[1:]}
    assert many.returncode == 3
    assert rows == {failed: "retried", well: "refused"}


def test_all_failed_tasks_that_a_filter_finds_are_retried(dev: Dev) -> None:
    wanted = [settled(dev, FAILING, name="cli-many") for _ in range(2)]
    other = settled(dev, FAILING, name="cli-other")

    many = dev.run_json("retry", "--all-failed", "--name", "cli-many")

    assert {str(one["id"]) for one in many["contents"] if one["successful"]} == set(wanted)
    assert dev.run_json("status", other)["state"] == "FAILED"


@pytest.mark.parametrize(
    "words",
    [
        "retry",
        "retry 1 --ids 2",
        "retry --all-failed --ids 2",
        "retry --ids two",
        "retry 1 --name x",
        "skip 1",
        "pause",
    ],
)
def test_wrong_usage_of_a_verb_ends_with_2_before_anything_is_asked(tmp_path: Path, dev: Dev, words: str) -> None:
    refused = dev.run(*words.split())

    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr
