from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from schema.transitions import progress
from tests.factories import execute, make_task, one, together
from tests.invariants import assert_invariants


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def test_the_end_of_the_last_subtask_settles_the_task_in_the_same_transaction(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    task.run("a")
    assert task.column("state") == "RUNNING"

    task.run("b")

    assert (task.column("state"), task.column("status")) == ("SUCCESSFUL", 2)
    assert task.column("finalized_at") is not None
    assert task.progress().open is False


def test_the_error_of_a_task_names_what_failed_first(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()}, {"a": {"allow_failure": True}})
    [allowed, first, second] = [task.begin(key)[0] for key in "acb"]
    task.record([allowed], "FAILED", error_message="allowed")
    task.record([first], "FAILED", error_message="first")
    task.record([second], "FAILED", error_message="second")

    assert (task.column("state"), task.column("status")) == ("FAILED", 3)
    assert task.column("error") == {"type": "failed", "message": "first", "subtask": "c"}


def test_the_error_is_of_the_last_attempt(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
    task.run("a", verdict="RETRY", error_message="first attempt")

    task.run("a", verdict="FAILED", error_message="second attempt")

    assert task.column("error")["message"] == "second attempt"


def test_a_task_fails_only_when_nothing_runs_any_more(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()})
    [a, b, c] = [task.begin(key)[0] for key in "abc"]

    task.record([a], "FAILED")
    task.cancel("b")
    assert task.column("state") == "RUNNING"
    task.record([c])
    assert task.column("state") == "RUNNING"
    task.record([b])

    assert task.column("state") == "FAILED"


def test_a_retry_that_waits_for_its_time_does_not_keep_a_failing_task(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ()}, {"a": {"max_attempts": 2}})
    [a, b] = [task.begin(key)[0] for key in "ab"]
    task.record([a], "RETRY", delay_seconds=60.0)

    task.record([b], "FAILED")

    assert task.states() == {"a": "PENDING", "b": "FAILED"}
    assert task.column("state") == "FAILED"


@pytest.mark.parametrize(("verdict", "state"), [("SUCCESSFUL", "SUCCESSFUL"), ("FAILED", "FAILED")])
def test_a_task_whose_last_subtask_ends_while_it_is_paused_settles(engine: Engine, verdict: str, state: str) -> None:
    task = make_task(engine, {"a": ()})
    [claimed] = task.begin("a")
    execute(engine, "UPDATE tasks SET state = 'SUSPENDED'")
    execute(engine, "UPDATE task_progress SET open = false")

    task.record([claimed], verdict)  # type: ignore[arg-type]

    assert task.column("state") == state


def test_the_task_settles_once_when_its_last_two_end_at_the_same_moment(engine: Engine) -> None:
    for verdict in ("SUCCESSFUL", "FAILED"):
        for _ in range(10):
            task = make_task(engine, {"a": (), "b": ()})
            held = [task.begin("a", process=1), task.begin("b", process=2)]
            before = task.progress().change_number

            together(2, lambda number, task=task, held=held, verdict=verdict: task.record(held[number], verdict))  # type: ignore[arg-type]

            assert task.column("state") == verdict
            assert task.progress().change_number >= before + 3


def test_history_follows_the_task_and_outlives_it(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, account="7", task_type="sync_host", instance_id=42, extra="x")
    history = "SELECT state, task_hex, account, task_type, instance_id, extra, error FROM sync_history"
    assert one(engine, history)["state"] == "CREATED"

    task.run("a", verdict="FAILED", error_message="no route")

    row = one(engine, history)
    assert (row["state"], row["account"], row["task_type"], row["instance_id"]) == ("FAILED", "7", "sync_host", 42)
    assert row["error"]["message"] == "no route"
    assert row["task_hex"] == task.column("task_id")
    execute(engine, "DELETE FROM subtasks")
    execute(engine, "DELETE FROM subtask_specs")
    execute(engine, "DELETE FROM tasks")
    assert one(engine, history)["state"] == "FAILED"
    assert one(engine, "SELECT count(*) AS n FROM task_progress")["n"] == 0
    execute(engine, "DELETE FROM subtask_attempts")


def test_the_end_is_announced_to_who_waits(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    [claimed] = task.begin("a")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
        listener.exec_driver_sql(f"LISTEN {progress.SETTLED_CHANNEL}")

        task.record([claimed])

        notices = list(listener.connection.driver_connection.notifies(timeout=5, stop_after=1))  # type: ignore[union-attr]
    assert [notice.payload for notice in notices] == [str(task.id)]


def test_a_settled_task_frees_its_duplicate_key(engine: Engine) -> None:
    for verdict in ("SUCCESSFUL", "FAILED"):
        task = make_task(engine, {"a": ()}, duplicate_key="host 42", instance_id=42)

        task.run("a", verdict=verdict)  # type: ignore[arg-type]

        assert task.column("duplicate_key") is None


def test_a_late_hand_back_or_recall_does_not_open_what_has_settled(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    carrier = task.release("a")["a"]
    task.record(task.claim("a"), "FAILED")
    settled = task.column("updated_at")

    task.hand_back("a", "b", carrier=carrier)
    task.recall_lost(carrier, "a", "b")
    task.rescue(1)

    assert (task.column("state"), task.column("updated_at")) == ("FAILED", settled)
    assert task.frontier() == []
