"""Pause, resume, cancel, abandon and the deadline: what is held back, what is stopped, and when the task has ended."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.errors import WrongState
from schema.instances import duplicate_key
from schema.transitions import cancellations, progress
from schema.transitions.rescues import Seen
from tests.factories import PROCESS, StoredTask, execute, make_task, many, one
from tests.invariants import assert_invariants
from tests.operators import audit, expire, heard, refused, use


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def test_a_pause_takes_back_what_is_released_or_carried_and_lets_run_what_has_begun(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("b",), "d": ()})
    task.release(carriers={"a": 4096 << 12, "b": 4097 << 12, "c": 4098 << 12})
    task.release("d")
    [a] = task.claim("a")

    use(task, "pause")

    assert task.states() == {"a": "RUNNING", "b": "PENDING", "c": "PENDING", "d": "PENDING"}
    assert [task.row(key)["carrier"] for key in "bcd"] == [None, None, None]
    assert task.claim("d") == []
    task.record([a])
    assert task.column("state") == "SUSPENDED"
    assert task.states()["b"] == "PENDING"


def test_a_paused_task_goes_on_where_it_was(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    task.run("a")
    started = task.column("started_at")
    use(task, "pause")

    with heard(engine, progress.STARTABLE_CHANNEL) as payloads:
        use(task, "resume")

    assert payloads == [str(task.id)]
    assert (task.column("state"), task.column("started_at"), task.progress().may_start) == ("RUNNING", started, True)
    task.run("b")
    assert task.column("state") == "SUCCESSFUL"


@pytest.mark.parametrize(("verdict", "state"), [("SUCCESSFUL", "SUCCESSFUL"), ("FAILED", "FAILED")])
def test_a_task_settles_when_its_last_subtask_ends_while_it_is_paused(engine: Engine, verdict: str, state: str) -> None:
    task = make_task(engine, {"a": ()})
    [a] = task.begin("a")
    use(task, "pause")

    task.record([a], verdict)  # type: ignore[arg-type]

    assert task.column("state") == state


def test_a_task_that_was_paused_before_it_started_starts_with_its_first_release(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})

    use(task, "pause")
    use(task, "resume")
    assert (task.column("state"), task.column("started_at")) == ("RUNNING", None)
    task.release("a")

    assert task.column("started_at") is not None
    assert task.column("executor") == "test-server"


def test_a_task_that_starts_later_still_does_so_after_a_pause(engine: Engine) -> None:
    start = datetime.now(UTC) + timedelta(hours=1)
    task = make_task(engine, {"a": ()}, start_at=start)

    use(task, "pause")
    assert one(engine, "SELECT opens_at FROM task_progress")["opens_at"] is None
    use(task, "resume")

    row = one(engine, "SELECT open, opens_at FROM task_progress")
    assert (row["open"], row["opens_at"]) == (False, start)


def test_a_cancel_of_what_nothing_runs_of_ends_it_at_once(engine: Engine) -> None:
    later = make_task(engine, {"a": ()}, start_at=datetime.now(UTC) + timedelta(hours=1))
    created = make_task(engine, {"a": ()})
    released = make_task(engine, {"a": (), "b": ("a",)})
    released.release("a")
    paused = make_task(engine, {"a": ()})
    use(paused, "pause")

    for task in (later, created, released, paused):
        with heard(engine, progress.SETTLED_CHANNEL) as payloads:
            use(task, "cancel")

        assert (task.column("state"), task.column("operation")) == ("REVOKED", "CANCEL")
        assert set(task.states().values()) == {"PENDING"}
        assert payloads == [str(task.id)]
    assert many(engine, "SELECT * FROM task_progress WHERE open OR opens_at IS NOT NULL") == []


@pytest.mark.parametrize("verdict", ["SUCCESSFUL", "FAILED", "RETRY"])
def test_a_cancelled_subtask_fails_however_its_handler_ends(engine: Engine, verdict: str) -> None:
    task = make_task(engine, {"a": (), "b": ()}, {"a": {"max_attempts": 3}})
    [a] = task.begin("a")
    task.begin("b")

    with heard(engine, cancellations.CANCELING_CHANNEL) as payloads:
        use(task, "cancel", "a")
    assert payloads == [str(task.id)]
    with transaction(engine) as connection:
        assert [(one.id, one.claim) for one in cancellations.asked_to_stop(connection, [PROCESS])] == [(a.id, a.claim)]
    recorded = task.record([a], verdict, result=1, delay_seconds=5.0 if verdict == "RETRY" else None)  # type: ignore[arg-type]

    assert recorded.canceled == {a.id}
    assert (task.row("a")["state"], task.row("a")["operation"]) == ("FAILED", "CANCEL")
    [attempt] = task.attempts("a")
    assert (attempt["outcome"], attempt["operation"]) == ("CANCELED", "EXECUTE")
    assert attempt["error_type"] == ("cancelled" if verdict == "SUCCESSFUL" else "failed")
    assert many(engine, "SELECT * FROM subtask_results") == []
    assert task.column("state") == "RUNNING"


def test_a_cancelled_task_ends_when_the_last_of_what_ran_has_stopped(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ("a",), "d": ()})
    [a, b] = [task.begin(key)[0] for key in "ab"]
    carrier = task.release("d")["d"]

    use(task, "cancel")
    assert task.states() == {"a": "CANCELING", "b": "CANCELING", "c": "PENDING", "d": "PENDING"}
    assert (task.column("state"), task.column("operation")) == ("RUNNING", "CANCEL")
    assert task.claim("d") == []
    assert task.hand_back("d", carrier=carrier) == []
    task.record([a])
    assert task.column("state") == "RUNNING"
    task.record([b], "FAILED")

    assert task.column("state") == "REVOKED"
    assert task.column("error") is None
    assert task.states()["c"] == "PENDING"


def test_what_a_dead_worker_was_asked_to_stop_has_stopped(engine: Engine) -> None:
    for seen in (None, "a", "b"):
        task = make_task(engine, {"a": (), "b": ()}, {"a": {"max_attempts": 9}, "b": {"max_attempts": 9}})
        [a, _] = task.begin("a", "b")
        use(task, "cancel")

        task.rescue(a.claim, seen=None if seen is None else Seen(task.ids[seen]))

        assert task.column("state") == "REVOKED"
        assert set(task.states().values()) == {"FAILED"}
        assert {row["operation"] for row in task.rows().values()} == {"CANCEL"}
        assert task.attempts("a")[0]["outcome"] == "CANCELED"


def test_a_cancelled_subtask_of_a_dead_worker_is_not_run_again(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ()}, {"a": {"max_attempts": 9}})
    [a, _] = task.begin("a", "b")
    use(task, "cancel", "a")

    task.rescue(a.claim, seen=Seen(task.ids["b"]))

    assert task.states() == {"a": "FAILED", "b": "PENDING"}
    assert task.row("a")["operation"] == "CANCEL"


def test_a_cancel_hands_the_instance_to_who_waits_for_it_and_one_who_waits_can_be_cancelled(engine: Engine) -> None:
    key = duplicate_key(account="0", task_type="inline", instance_id=42, extra="", on_duplicate="queue")
    columns = {"instance_id": 42, "on_duplicate": "queue", "duplicate_key": key}
    holder, second, third = (make_task(engine, {"a": ()}, **columns) for _ in range(3))

    use(second, "cancel")
    assert (second.column("state"), second.column("queued_key")) == ("REVOKED", None)
    assert holder.column("duplicate_key") == key
    use(holder, "cancel")

    assert (third.column("duplicate_key"), third.progress().open) == (key, True)


def test_one_who_waits_for_an_instance_stays_paused_when_it_gets_it(engine: Engine) -> None:
    key = duplicate_key(account="0", task_type="inline", instance_id=42, extra="", on_duplicate="queue")
    columns = {"instance_id": 42, "on_duplicate": "queue", "duplicate_key": key}
    holder, waiting = (make_task(engine, {"a": ()}, **columns) for _ in range(2))

    use(waiting, "pause")
    holder.run("a")
    assert (waiting.column("duplicate_key"), waiting.progress().open) == (key, False)
    use(waiting, "resume")

    assert waiting.progress().open is True


def test_a_resumed_task_goes_on_waiting_for_its_instance(engine: Engine) -> None:
    key = duplicate_key(account="0", task_type="inline", instance_id=42, extra="", on_duplicate="queue")
    columns = {"instance_id": 42, "on_duplicate": "queue", "duplicate_key": key}
    holder, waiting = (make_task(engine, {"a": ()}, **columns) for _ in range(2))
    use(waiting, "pause")

    use(waiting, "resume")
    assert waiting.progress().open is False
    holder.run("a")

    assert waiting.progress().open is True


def test_an_abandoned_task_is_revoked_for_good_and_keeps_its_error(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    task.run("a", verdict="FAILED", error_message="no route")

    with heard(engine, progress.SETTLED_CHANNEL) as payloads:
        use(task, "abandon")

    assert (task.column("state"), task.column("operation"), task.column("abandoned")) == ("REVOKED", "CANCEL", True)
    assert task.column("error")["message"] == "no route"
    assert one(engine, "SELECT state FROM sync_history")["state"] == "REVOKED"
    assert payloads == [str(task.id)]
    for verb in ("retry", "rollback", "abandon", "cancel"):
        with refused(engine, WrongState):
            use(task, verb)


def _created(engine: Engine) -> StoredTask:
    return make_task(engine, {"a": (), "b": ("a",)})


def _running(engine: Engine) -> StoredTask:
    task = _created(engine)
    task.run("a")
    task.release("b")
    return task


def _paused(engine: Engine) -> StoredTask:
    task = _running(engine)
    use(task, "pause")
    return task


def _queued(engine: Engine) -> StoredTask:
    key = duplicate_key(account="0", task_type="inline", instance_id=42, extra="", on_duplicate="queue")
    columns = {"instance_id": 42, "on_duplicate": "queue", "duplicate_key": key}
    make_task(engine, {"a": ()}, **columns)
    return make_task(engine, {"a": (), "b": ("a",)}, **columns)


@pytest.mark.parametrize("make", [_created, _running, _paused, _queued])
def test_a_task_of_which_nothing_runs_fails_at_its_deadline(engine: Engine, make: object) -> None:
    task = make(engine)  # type: ignore[operator]
    before = task.column("state")

    expire(task)

    assert task.column("state") == "FAILED"
    assert task.column("error") == {"type": "deadline", "message": "the task had not ended at its deadline"}
    assert one(engine, "SELECT state FROM sync_history WHERE task_id = :id", id=task.id)["state"] == "FAILED"
    row = audit(task)[-1]
    assert (row["verb"], row["principal"], row["from_state"], row["to_state"]) == (
        "deadline",
        "taskserver",
        before,
        "FAILED",
    )


def test_what_runs_at_the_deadline_is_stopped_and_then_the_task_fails(engine: Engine) -> None:
    for paused in (False, True):
        task = make_task(engine, {"a": (), "b": ("a",)})
        [a] = task.begin("a")
        if paused:
            use(task, "pause")

        expire(task)
        assert (task.column("state"), task.row("a")["state"]) == ("RUNNING", "CANCELING")
        assert task.column("operation") == "EXECUTE"
        task.record([a])

        assert task.column("state") == "FAILED"
        assert task.column("error")["type"] == "deadline"


def test_a_deadline_is_looked_at_once_and_not_after_the_end(engine: Engine) -> None:
    ended, stopped = _created(engine), make_task(engine, {"a": ()})
    for key in "ab":
        ended.run(key)
    stopped.begin("a")
    use(stopped, "cancel")
    execute(engine, "UPDATE tasks SET deadline_at = now()")

    with transaction(engine) as connection:
        overdue = cancellations.overdue_tasks(connection, limit=10)
    for task in (ended, stopped):
        with transaction(engine) as connection:
            cancellations.expire(connection, task.id)

    assert overdue == []
    assert (ended.column("state"), stopped.column("state")) == ("SUCCESSFUL", "RUNNING")
    assert stopped.progress().stopping == "CANCEL"


def test_a_deadline_that_a_retry_put_off_in_the_meantime_stops_nothing(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, deadline_seconds=3600.0)
    task.begin("a")

    with transaction(engine) as connection:
        cancellations.expire(connection, task.id)

    assert (task.column("state"), task.progress().stopping, audit(task)) == ("RUNNING", None, [])


def test_a_rollback_has_no_deadline(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"has_rollback": True}}, deadline_seconds=3600.0)
    [a] = task.begin("a")
    expire(task)
    task.record([a])

    use(task, "rollback")

    assert (task.column("deadline_at"), task.progress().stopping) == (None, None)
    assert task.column("state") == "RUNNING"
