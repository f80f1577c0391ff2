"""The client's verbs against the whole product."""

import pytest

from schema.states import SubtaskState, TaskState
from taskserver.client import NotFound, WrongState
from tests.acceptance.conftest import Dev

LONG = {"key": "long", "kind": "builtin.sleep", "arguments": {"seconds": 60}}


def failing(times: int) -> dict[str, object]:
    return {"key": "bad", "kind": "builtin.fail", "arguments": {"message": "out of luck", "times": times}}


def test_a_failed_task_is_retried_once_per_key(dev: Dev) -> None:
    with dev.client() as server:
        task = server.submit(subtasks=[failing(1)])
        task.wait(timeout=60)

        retried = task.retry("the disk was full", idempotency_key="client-retry-once")
        settled = task.wait(timeout=60)
        again = task.retry("the disk was full", idempotency_key="client-retry-once")
        [record] = task.operations()
        with pytest.raises(WrongState, match="SUCCESSFUL"):
            task.retry()

    assert retried.id == again.id == task.id
    assert settled.is_successful
    assert (record.verb.lower(), record.reason) == ("retry", "the disk was full")


def test_a_subtask_is_retried_and_skipped_by_its_key(dev: Dev) -> None:
    with dev.client() as server:
        task = server.submit(subtasks=[failing(5)])
        task.wait(timeout=60)

        retried = task.subtask("bad").retry()
        task.wait(timeout=60)
        skipped = task.subtask("bad").skip(reason="not needed")
        settled = task.wait(timeout=60)

    assert retried.key == "bad"
    assert skipped.status is SubtaskState.SUCCESSFUL
    assert settled.is_successful


def test_a_task_is_cancelled_while_it_runs(dev: Dev) -> None:
    with dev.client() as server:
        task = server.submit(subtasks=[LONG])
        next(one for one in task.changes() if one.count(SubtaskState.RUNNING))

        task.cancel(reason="no longer needed")
        settled = task.wait(timeout=60)

    assert settled.state is TaskState.REVOKED


def test_a_subtask_is_cancelled_while_it_runs_and_the_task_abandoned(dev: Dev) -> None:
    with dev.client() as server:
        task = server.submit(subtasks=[LONG])
        next(one for one in task.changes() if one.count(SubtaskState.RUNNING))

        task.subtask("long").cancel()
        failed = task.wait(timeout=60)
        abandoned = task.abandon()

    assert failed.state is TaskState.FAILED
    assert abandoned.state is TaskState.REVOKED


def test_a_paused_task_goes_on_when_it_is_resumed(dev: Dev) -> None:
    with dev.client() as server:
        task = server.submit(
            subtasks=[
                {**LONG, "arguments": {"seconds": 0.5}},
                {"key": "after", "kind": "builtin.noop", "upstreams": ["long"]},
            ]
        )

        paused = task.pause()
        resumed = task.resume()
        settled = task.wait(timeout=60)

    assert paused.state is TaskState.SUSPENDED
    assert resumed.state is TaskState.RUNNING
    assert settled.is_successful


def test_a_failed_task_is_rolled_back(dev: Dev) -> None:
    with dev.client() as server:
        task = server.submit(subtasks=[failing(5)])
        task.wait(timeout=60)

        task.rollback()
        settled = task.wait(timeout=60)

    assert settled.state is TaskState.ROLLED_BACK


def test_many_tasks_are_retried_at_once(dev: Dev) -> None:
    with dev.client() as server:
        bad, good = server.submit_batch(
            [{"subtasks": [failing(1)]}, {"subtasks": [{"key": "a", "kind": "builtin.noop"}]}]
        )
        bad.wait(timeout=60)
        good.wait(timeout=60)

        first, second = server.retry_tasks([bad.id, good.id], reason="all of them")
        settled = bad.wait(timeout=60)

    assert (first.id, first.successful, second.id, second.successful) == (bad.id, True, good.id, False)
    assert second.error is not None
    assert settled.is_successful


def test_a_subtask_of_another_task_is_not_found(dev: Dev) -> None:
    with dev.client() as server:
        one = server.submit(subtasks=[failing(1)])
        other = server.submit(subtasks=[failing(1)])
        stranger = one.detail().subtasks[0].id

        with pytest.raises(NotFound):
            other.subtask(stranger).skip()
