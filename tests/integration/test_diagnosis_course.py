"""What holds a task by its own course, or has begun and does not end, is named, alone and exactly."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.kinds import KindInfo
from schema.transitions import cancellations, holds, rollbacks
from schema.transitions.orders import Order
from schema.transitions.registrations import note_pace, register_kinds
from taskserver.diagnosis.finding import Severity
from taskserver.embedded.stack import EmbeddedStack
from tests.clinic import Clinic, opened_clinic
from tests.eventually import eventually
from tests.factories import StoredTask, execute, make_task, one
from tests.operators import use

ANNA = Order("anna", account="0", reason="maintenance")
UPTIME = "SELECT extract(epoch FROM now() - pg_postmaster_start_time()) AS seconds"


@pytest.fixture
def clinic(engine: Engine, stack: EmbeddedStack) -> Iterator[Clinic]:
    with opened_clinic(engine, stack) as clinic:
        yield clinic


def register_kind(engine: Engine, name: str, *, seconds: float) -> None:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo(name)], code_version="v")
        note_pace(connection, {name: seconds})


def begin_long_ago(task: StoredTask, key: str, *, seconds: float) -> int:
    claimed = task.begin(key)
    task.set(key, f"started_at = now() - interval '{seconds} s', attempted_at = now() - interval '{seconds} s'")
    return claimed[0].claim


class TestCourse:
    def test_a_paused_task_names_who_paused_it_and_how_to_resume(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        with transaction(engine) as connection:
            holds.pause(connection, task.id, ANNA)

        found = clinic.only(task)

        assert (found.type, found.severity) == ("paused", Severity.ERROR)
        assert "'anna'" in found.message
        assert "(maintenance): 2 subtasks" in found.message
        assert f"taskserver resume {task.id}" in found.cure

    def test_a_failed_subtask_is_named_with_its_error_and_every_way_out(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        task.run("a", verdict="FAILED", error_type="DiskFull", error_message="no room on /data")

        found = clinic.only(task)

        assert found.type == "failed"
        assert f"subtask 'a' ({task.ids['a']}) of task {task.id} failed: DiskFull: no room on /data" in found.message
        assert all(f"taskserver {verb} {task.id}" in found.cure for verb in ("retry", "skip", "rollback", "abandon"))
        assert (found.subtasks, found.subtask_count) == ([task.ids["a"]], 1)

    def test_a_failure_is_named_while_siblings_still_run(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": (), "c": ("b",)})
        running = task.begin("b")
        task.run("a", verdict="FAILED")
        clinic.worker(claims=[running[0].claim])

        found = clinic.only(task)

        assert found.type == "failed"
        assert "fails once 1 under way have ended" in found.message
        assert "rollback" not in found.cure

    @pytest.mark.parametrize("delay_seconds", [None, 600.0])
    def test_a_failure_beside_what_an_operator_named_tells_that_it_comes_first(
        self, clinic: Clinic, engine: Engine, delay_seconds: float | None
    ) -> None:
        clinic.busy_worker()
        task = make_task(engine, {"a": (), "b": (), "c": ()}, {"b": {"max_attempts": 3}})
        task.record(task.begin("a", "b"), "FAILED")
        use(task, "retry", "b")
        if delay_seconds is not None:
            task.run("b", verdict="RETRY", delay_seconds=delay_seconds)

        found = clinic.findings(task)

        assert [one.type for one in found] == ["failed"] if delay_seconds is None else ["failed", "retry"]
        assert (
            "the task begins nothing more but what an operator named, and fails once 1 that an operator named have ended"
            in found[0].message
        )

    def test_a_failure_in_a_task_that_is_being_cancelled_is_no_finding(self, clinic: Clinic, engine: Engine) -> None:
        """Nothing can be done about it any more."""
        task = make_task(engine, {"a": (), "b": ()})
        clinic.worker(claims=[task.begin("b")[0].claim])
        task.run("a", verdict="FAILED")
        use(task, "cancel")

        assert clinic.types(task) == []

    def test_a_rollback_that_is_prohibited_is_not_proposed(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"prohibit_rollback": True}})
        task.run("a")
        task.run("b", verdict="FAILED")

        found = clinic.only(task)

        assert found.type == "failed"
        assert "rollback" not in found.cure

    def test_a_failure_that_is_allowed_holds_nothing(self, clinic: Clinic, engine: Engine) -> None:
        clinic.busy_worker()
        task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"allow_failure": True}})
        task.run("a", verdict="FAILED")

        assert clinic.types(task) == []

    def test_a_failed_rollback_is_named_with_what_is_left_to_undo(self, clinic: Clinic, engine: Engine) -> None:
        options = {key: {"has_rollback": True} for key in "ab"}
        task = make_task(engine, {"a": (), "b": ("a",), "c": ("b",)}, options)
        task.run("a")
        task.run("b")
        task.run("c", verdict="FAILED")
        with transaction(engine) as connection:
            rollbacks.rollback(connection, task.id, ANNA)
        task.run("b", verdict="FAILED", error_type="Stuck", error_message="cannot undo")

        found = clinic.only(task)

        assert found.type == "rollback_failed"
        assert f"subtask 'b' ({task.ids['b']}) failed: Stuck: cannot undo; 2 of task" in found.message
        assert f"taskserver rollback {task.id}" in found.cure
        assert f"taskserver skip {task.id} 'b'" in found.cure

    def test_a_deadline_that_ended_the_task_is_named(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)}, deadline_seconds=3600.0)
        execute(engine, "UPDATE tasks SET deadline_at = now() - interval '1 s' WHERE id = :id", id=task.id)
        with transaction(engine) as connection:
            cancellations.expire(connection, task.id)

        found = clinic.only(task)

        assert found.type == "deadline"
        assert "2 subtasks had not begun" in found.message
        assert f"taskserver retry {task.id}" in found.cure

    def test_a_task_behind_the_holder_of_its_instance_names_that(self, clinic: Clinic, engine: Engine) -> None:
        queued = {"duplicate_key": "k", "instance_id": 1, "on_duplicate": "queue"}
        holder = make_task(engine, {"a": ()}, **queued, name="the first")
        make_task(engine, {"a": ()}, **queued)
        task = make_task(engine, {"a": ()}, **queued)

        found = clinic.only(task)

        assert (found.type, found.severity) == ("duplicate", Severity.INFO)
        assert f"behind task {holder.id} (the first), which was submitted 0 s ago, has its instance" in found.message
        assert "and is CREATED; 1 queued before it" in found.message
        assert f"taskserver doctor {holder.id}" in found.cure

    def test_a_holder_that_has_just_got_the_instance_is_not_said_to_have_it_since_its_submission(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        queued = {"duplicate_key": "k", "instance_id": 1, "on_duplicate": "queue"}
        first, second, task = (make_task(engine, {"a": ()}, **queued) for _ in range(3))
        execute(engine, "UPDATE tasks SET created_at = created_at - 36000000")
        use(first, "cancel")

        found = clinic.only(task)

        assert f"behind task {second.id} (test), which was submitted 10 h ago, has its instance" in found.message
        assert "since" not in found.message

    def test_a_start_in_the_future_is_told(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, start_at=datetime.now(UTC) + timedelta(hours=2))

        found = clinic.only(task)

        assert (found.type, found.severity) == ("start_at", Severity.INFO)
        assert "in 2 h" in found.message

    def test_a_task_in_which_all_waits_for_another_attempt_says_until_when(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"max_attempts": 3}})
        task.run("a", verdict="RETRY", delay_seconds=600.0, error_message="not yet")

        found = clinic.only(task)

        assert (found.type, found.subtasks, found.subtask_count) == ("retry", [task.ids["a"]], 1)
        assert "in 10 min (1 of 3 attempts have failed; the last one: not yet)" in found.message

    def test_a_delay_beside_work_that_runs_is_no_finding(self, clinic: Clinic, engine: Engine) -> None:
        clinic.busy_worker()
        task = make_task(engine, {"a": (), "b": ()}, {"a": {"max_attempts": 3}})
        task.run("a", verdict="RETRY", delay_seconds=600.0)

        assert clinic.types(task) == []

    def test_a_task_that_waits_for_a_signal_alone_says_which(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"ask": (), "b": ("ask",)})
        task.set("ask", "gate = 'signal'")
        execute(engine, "UPDATE task_progress SET startable = 0 WHERE id = :id", id=task.id)

        found = clinic.only(task)

        assert found.type == "signal"
        assert f"subtask 'ask' ({task.ids['ask']})" in found.message
        assert f"taskserver cancel {task.id}" in found.cure
        assert "POST" not in found.cure


class TestRunning:
    def test_a_concurrency_that_long_running_subtasks_take_up_names_them(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"slow": (), "next": ()}, {"slow": {"timeout": 9_000.0}}, concurrency=1)
        clinic.worker(claims=[begin_long_ago(task, "slow", seconds=900)])

        found = clinic.only(task)

        assert found.type == "limit"
        assert f"concurrency of 1 is taken: subtask 'slow' ({task.ids['slow']}) has run for 15 min" in found.message
        assert f"taskserver cancel {task.id} 'slow'" in found.cure

    def test_a_concurrency_taken_for_a_moment_is_no_finding(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ()}, concurrency=1)
        clinic.worker(claims=[task.begin("a")[0].claim])

        assert clinic.types(task) == []

    def test_what_was_asked_to_stop_and_does_not_is_named_with_its_process(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"deaf": ()})
        clinic.worker(claims=[begin_long_ago(task, "deaf", seconds=900)])
        with transaction(engine) as connection:
            cancellations.cancel_subtask(connection, task.id, task.ids["deaf"], ANNA)
        execute(engine, "UPDATE operations SET created_at = now() - interval '90 s'")

        found = clinic.only(task)

        assert found.type == "canceling"
        assert f"subtask 'deaf' ({task.ids['deaf']})" in found.message
        assert "1.5 min ago and still runs in process 7, past the grace of 10 s" in found.message

    def test_a_stop_within_its_grace_is_no_finding(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        clinic.worker(claims=[begin_long_ago(task, "a", seconds=900)])
        with transaction(engine) as connection:
            cancellations.cancel_task(connection, task.id, ANNA)

        assert clinic.types(task) == []

    def test_what_runs_far_longer_than_its_kind_without_a_timeout_is_named(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"slow": ()})
        register_kind(engine, "test.kind", seconds=2.5)
        clinic.worker(claims=[begin_long_ago(task, "slow", seconds=7200)])

        found = clinic.only(task)

        assert (found.type, found.severity) == ("overlong", Severity.WARNING)
        assert "has run for 2 h in process 7; test.kind typically takes 2.5 s" in found.message
        assert f"taskserver log {task.id} 'slow'" in found.cure

    @pytest.mark.parametrize(
        ("typical", "timeout", "seconds"), [(2.5, None, 50), (900.0, None, 7200), (2.5, 9e3, 7200)]
    )
    def test_what_takes_its_time_or_has_a_timeout_is_no_finding(
        self, clinic: Clinic, engine: Engine, typical: float, timeout: float | None, seconds: float
    ) -> None:
        task = make_task(engine, {"slow": ()}, {"slow": {"timeout": timeout}})
        register_kind(engine, "test.kind", seconds=typical)
        clinic.worker(claims=[begin_long_ago(task, "slow", seconds=seconds)])

        assert clinic.types(task) == []

    def test_a_claim_that_no_worker_names_and_no_server_rescues_is_named(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        clinic.settings = clinic.settings.model_copy(update={"dead_after_seconds": 1.0})
        eventually(lambda: one(engine, UPTIME)["seconds"] > 12, what="PostgreSQL has been up for long enough")
        begin_long_ago(task, "a", seconds=900)
        clinic.worker()

        found = clinic.only(task)

        assert found.type == "worker_lost"
        assert "began 15 min ago in process 7, which is gone" in found.message
