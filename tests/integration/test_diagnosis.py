"""Each planted cause of standstill is named, alone and exactly; a task that is well gets no finding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, event, text

from schema.celeryapp import make_redis
from schema.database import transaction
from schema.errors import NotFound
from schema.identity import TaskId
from schema.kinds import KindInfo
from schema.settings import Settings
from schema.transitions import cancellations, holds, rollbacks
from schema.transitions.orders import Order
from schema.transitions.registrations import (
    Beat,
    WorkerInfo,
    beat,
    note_pace,
    register_kinds,
    register_worker,
    stop_worker,
)
from taskserver.diagnosis.examination import examine
from taskserver.diagnosis.facts import Waits
from taskserver.diagnosis.finding import Finding, Severity
from taskserver.embedded.stack import EmbeddedStack
from taskserver.queries.diagnosis import read_stored
from tests.api_client import ApiClient, running_api
from tests.eventually import eventually
from tests.factories import StoredTask, execute, make_task, one

ANNA = Order("anna", account="0", reason="maintenance")
KINDS = ("test.kind",)
HUNDRED_THOUSAND = (
    "INSERT INTO subtasks (id, task_id) SELECT nextval('subtask_ids'), :task FROM generate_series(2, 100000)",
    "INSERT INTO subtask_specs (id, task_id, series_id, key, kind) SELECT id, task_id, id, id::text, 'test.kind'"
    " FROM subtasks AS s WHERE task_id = :task AND NOT EXISTS (SELECT FROM subtask_specs AS d WHERE d.id = s.id)",
    "UPDATE task_progress SET pending = 100000, startable = 100000 WHERE id = :task",
)
UPTIME = "SELECT extract(epoch FROM now() - pg_postmaster_start_time()) AS seconds"


@pytest.fixture
def settings(engine: Engine, stack: EmbeddedStack) -> Settings:
    url = engine.url.render_as_string(hide_password=False)
    return Settings(_env_file=None, database_url=url, redis_url=stack.redis_url)


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    with make_redis(settings) as redis:
        redis.flushdb()
        yield redis
        redis.flushdb()


class Clinic:
    """Examines tasks, and plants the workers that they need."""

    def __init__(self, engine: Engine, redis: Redis, settings: Settings) -> None:
        self.engine = engine
        self.redis = redis
        self.settings = settings

    def findings(self, task: StoredTask) -> tuple[Finding, ...]:
        return examine(self.engine, self.redis, self.settings, task.id, account="0").findings

    def only(self, task: StoredTask) -> Finding:
        found = self.findings(task)
        assert len(found) == 1, found
        return found[0]

    def types(self, task: StoredTask) -> list[str]:
        return [one.type for one in self.findings(task)]

    def summary(self, task: StoredTask) -> str:
        return examine(self.engine, self.redis, self.settings, task.id, account="0").summary

    def worker(
        self,
        number: int = 1,
        *,
        queue: str = "default",
        kinds: Sequence[str] | None = KINDS,
        claims: Sequence[int] = (),
        carriers: Sequence[int] = (),
        seconds: float = 600,
        silent: float = 0,
    ) -> int:
        """Store a worker of two slots that started so long ago, and beat for the last time `silent` seconds ago."""
        with transaction(self.engine) as connection:
            info = WorkerInfo(number, f"w{number}", "host1", 99, [queue], 2, "v", kinds=kinds)
            register_worker(connection, info)
            beat(connection, number, Beat(processes=[7], claims=claims, carriers=carriers, started=0))
        execute(
            self.engine,
            "UPDATE workers SET started_at = now() - :age * interval '1 s', beat_at = now() - :silent * interval '1 s'"
            " WHERE id = :id",
            age=seconds,
            silent=silent,
            id=number,
        )
        return number

    def busy_worker(self) -> int:
        """Store a worker whose slots are all taken by others: what waits, waits its turn."""
        return self.worker(carriers=[1, 2])


@pytest.fixture
def clinic(engine: Engine, redis: Redis, settings: Settings) -> Clinic:
    return Clinic(engine, redis, settings)


def register_kind(engine: Engine, name: str, *, seconds: float) -> None:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo(name)], code_version="v")
        note_pace(connection, {name: seconds})


@contextmanager
def holding_row(engine: Engine, table: str, task: int) -> Iterator[int]:
    """Lock a row of the task from a session of somebody else's for the block; its pid."""
    with engine.connect() as outside:
        outside.execute(text("SET application_name = 'psql of anna'"))
        outside.commit()
        outside.execute(text(f"SELECT 1 FROM {table} WHERE id = :id FOR UPDATE"), {"id": task})
        yield outside.execute(text("SELECT pg_backend_pid()")).scalar_one()
        outside.rollback()
        outside.invalidate()


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
        assert f"behind task {holder.id} (the first)" in found.message
        assert "is CREATED; 1 queued before it" in found.message
        assert f"taskserver doctor {holder.id}" in found.cure

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
        assert f"/subtasks/{task.ids['ask']}/signal" in found.cure


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


class TestService:
    def test_a_queue_that_never_had_a_worker_is_named(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ()}, {key: {"queue": "gpu"} for key in "ab"})
        clinic.worker()

        found = clinic.only(task)

        assert (found.type, found.subtask_count) == ("no_worker", 2)
        assert "serves the queue 'gpu': none is known that ever did" in found.message
        assert "taskserver worker --queues gpu" in found.cure

    def test_workers_that_fell_silent_are_told_apart_from_those_that_stopped(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"queue": "gpu"}})
        clinic.worker(1, queue="gpu", silent=300)

        silent = clinic.only(task)
        with transaction(engine) as connection:
            stop_worker(connection, 1)
        stopped = clinic.only(task)

        assert "the last one, w1 (pid 99 on host1), is silent since 5 min" in silent.message
        assert "the last one, w1, stopped 5 min ago" in stopped.message

    def test_what_was_released_to_a_queue_without_workers_is_named(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"queue": "gpu"}})
        task.release("a")

        assert clinic.types(task) == ["no_worker"]

    def test_a_kind_that_no_live_worker_of_the_queue_has_is_named(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"kind": "host.mount"}})
        clinic.worker(carriers=[1, 2])

        found = clinic.only(task)

        assert (found.type, found.severity) == ("kind_unknown", Severity.ERROR)
        assert "'host.mount', which no live worker of the queue 'default' has" in found.message
        assert "TASKSERVER_HANDLERS" in found.cure

    def test_a_kind_that_a_worker_has_declined_is_named_while_it_is_not_offered(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"kind": "host.mount"}})
        clinic.worker(carriers=[1, 2])
        [claimed] = task.begin("a")
        task.decline("a", claim=claimed.claim)

        found = clinic.only(task)

        assert (found.type, found.severity) == ("kind_unknown", Severity.ERROR)

    def test_a_kind_that_one_of_the_workers_lacks_is_a_warning_that_names_it(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"kind": "host.mount"}})
        clinic.worker(1, carriers=[1, 2])
        clinic.worker(2, kinds=["host.mount"], carriers=[3, 4])

        found = clinic.only(task)

        assert (found.type, found.severity) == ("kind_unknown", Severity.WARNING)
        assert "(w1 cannot)" in found.message

    def test_a_worker_that_never_told_its_kinds_is_believed_to_have_them(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        clinic.worker(kinds=None, carriers=[1, 2])

        assert clinic.types(task) == []

    def test_a_message_that_is_neither_in_the_queue_nor_with_a_worker_is_lost(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": ()})
        task.release("a")
        task.set("a", "released_at = now() - interval '60 s'")
        clinic.worker()

        found = clinic.only(task)

        assert (found.type, found.subtasks, found.subtask_count) == ("message_lost", [task.ids["a"]], 1)
        assert "released 1 min ago, the queue 'default' is empty" in found.message

    def test_messages_that_free_workers_do_not_take_are_named(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        task.release("a")
        task.set("a", "released_at = now() - interval '60 s'")
        clinic.worker()
        clinic.redis.lpush("default", "message")

        found = clinic.only(task)

        assert found.type == "messages_not_taken"
        assert "1 messages lie in the queue 'default', although its workers have free slots" in found.message

    @pytest.mark.parametrize("case", ["fresh", "busy", "carried", "new worker"])
    def test_a_message_on_its_way_is_no_finding(self, clinic: Clinic, engine: Engine, case: str) -> None:
        task = make_task(engine, {"a": ()})
        carrier = task.release("a")["a"]
        if case != "fresh":
            task.set("a", "released_at = now() - interval '60 s'")
        carriers = {"busy": [1, 2], "carried": [carrier]}.get(case, [])
        clinic.worker(carriers=carriers, seconds=2 if case == "new worker" else 600)

        assert clinic.types(task) == []

    def test_work_that_no_dispatcher_releases_although_a_worker_is_free_is_named(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": (), "b": ()})
        clinic.worker()

        found = clinic.only(task)

        assert found.type == "dispatcher"
        assert "2 subtasks could start, the queue is empty and a worker is free" in found.message
        assert "taskserver server" in found.cure

    @pytest.mark.parametrize(
        ("statement", "words"),
        [
            (
                "UPDATE task_progress SET open = false, opens_at = now() - interval '60 s'",
                "its start was due 1 min ago",
            ),
            ("UPDATE tasks SET deadline_at = now() - interval '60 s'", "its deadline passed 1 min ago"),
            ("UPDATE tasks SET subtask_count = NULL, created_at = created_at - 60000", "inserted by SQL 1 min ago"),
        ],
    )
    def test_what_is_long_due_betrays_that_no_dispatcher_looks(
        self, clinic: Clinic, engine: Engine, statement: str, words: str
    ) -> None:
        task = make_task(engine, {"a": ()})
        clinic.busy_worker()
        execute(engine, statement)

        found = clinic.only(task)

        assert found.type == "dispatcher"
        assert words in found.message

    def test_a_delay_that_is_long_over_betrays_it_too(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 3}})
        task.run("a", verdict="RETRY", delay_seconds=1.0)
        task.set("a", "scheduled_at = now() - interval '60 s'")

        found = clinic.only(task)

        assert found.type == "dispatcher"
        assert f"the next attempt of 'a' ({task.ids['a']}) was due 1 min ago" in found.message

    def test_a_broker_that_does_not_answer_is_named(self, clinic: Clinic, engine: Engine, tmp_path: Any) -> None:
        task = make_task(engine, {"a": ()})
        clinic.worker()
        clinic.redis = make_redis(
            Settings(_env_file=None, redis_url=f"redis+socket://{tmp_path}/none", database_url=None)
        )

        found = clinic.only(task)

        assert found.type == "broker"
        assert "the broker does not answer" in found.message
        assert "taskserver check" in found.cure

    def test_a_session_that_holds_the_tasks_row_for_long_is_named_with_how_to_end_it(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": ()})
        clinic.settings = clinic.settings.model_copy(update={"dead_after_seconds": 60.0})
        clinic.busy_worker()
        with holding_row(engine, "task_progress", task.id) as pid:
            at_first = clinic.findings(task)
            found = eventually(lambda: clinic.findings(task), within=10)

        assert at_first == ()
        assert [one.type for one in found] == ["row_locked"]
        assert f"session {pid} (psql of anna, idle in transaction) has held the row" in found[0].message
        assert f"pg_terminate_backend({pid})" in found[0].cure

    @pytest.mark.parametrize("table", ["task_progress", "tasks"])
    def test_both_rows_of_a_task_are_watched_for_locks(self, clinic: Clinic, engine: Engine, table: str) -> None:
        task = make_task(engine, {"a": ()})

        with holding_row(engine, table, task.id) as pid:
            locker = read_stored(engine, task.id, account="0", waits=Waits(5, 2, 10)).locker

        assert locker is not None
        assert (locker.pid, locker.application) == (pid, "psql of anna")

    def test_a_row_that_was_locked_and_is_free_again_is_no_finding(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        clinic.busy_worker()
        with task.locked():
            pass

        assert clinic.types(task) == []

    def test_counters_that_contradict_the_rows_are_told_rather_than_called_well(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        clinic.busy_worker()
        execute(engine, "UPDATE task_progress SET startable = 0 WHERE id = :id", id=task.id)

        found = clinic.only(task)

        assert found.type == "inconsistent"
        assert "1 that could start are not counted as such" in found.message


class TestHealth:
    def test_a_task_that_waits_its_turn_has_no_finding_and_says_how_many_come_first(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        for _ in range(3):
            make_task(engine, {"a": ()})
        task = make_task(engine, {"a": (), "b": ("a",)})
        make_task(engine, {"a": ()})
        clinic.busy_worker()

        assert clinic.findings(task) == ()
        assert clinic.summary(task) == (
            f"task {task.id} is CREATED — 1 wait for their turn, 1 wait for what comes before; 3 tasks of the account"
            " come first: nothing is wrong"
        )

    def test_a_backlog_of_a_hundred_thousand_has_no_finding(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        for statement in HUNDRED_THOUSAND:
            execute(engine, statement, task=task.id)
        clinic.busy_worker()

        assert clinic.findings(task) == ()
        assert "100000 wait for their turn" in clinic.summary(task)

    def test_an_examination_reads_only_and_locks_nothing(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        task.run("a", verdict="FAILED")
        statements: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))

        with holding_row(engine, "task_progress", task.id):
            statements.clear()
            assert clinic.types(task) == ["failed"]

        assert statements
        assert not [one for one in statements if any(word in one for word in ("UPDATE", "INSERT", "DELETE", "LOCK"))]

    def test_a_settled_task_has_no_finding(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        task.run("a")

        assert clinic.findings(task) == ()
        assert clinic.summary(task) == f"task {task.id} is SUCCESSFUL: nothing is left to do"

    def test_another_accounts_task_is_not_there(self, clinic: Clinic, engine: Engine, settings: Settings) -> None:
        task = make_task(engine, {"a": ()}, account="7")

        with pytest.raises(NotFound):
            examine(engine, clinic.redis, settings, TaskId(task.id), account="0")


class TestHttp:
    @pytest.fixture
    def api(self, engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
        with running_api(engine, stack.redis_url) as api:
            yield api

    def test_a_viewer_is_answered_findings_with_their_cures(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        task.run("a", verdict="FAILED")

        data = api.acting("TASK_VIEWER").data(f"/instances/{task.id}/diagnosis")

        assert (data["id"], data["state"], data["taskId"]) == (task.id, "FAILED", task.column("task_id"))
        assert data["summary"].endswith("1 finding")
        (finding,) = data["findings"]
        assert (finding["type"], finding["severity"]) == ("failed", "error")
        assert (finding["subtasks"], finding["subtaskCount"]) == ([task.ids["a"]], 1)
        assert finding["cure"]

    def test_an_unknown_task_is_not_found(self, api: ApiClient) -> None:
        assert api.error("/instances/999/diagnosis", 404)["code"] == 20000
