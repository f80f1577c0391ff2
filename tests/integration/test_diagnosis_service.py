"""What a task needs from the service and lacks is named, alone and exactly; a task that is well gets no finding."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from schema.celeryapp import make_redis
from schema.database import transaction
from schema.errors import NotFound
from schema.identity import TaskId
from schema.settings import Settings
from schema.transitions import inserted
from schema.transitions.registrations import stop_worker
from taskserver.diagnosis.examination import examine
from taskserver.diagnosis.facts import Stored, Waits
from taskserver.diagnosis.finding import SHOWN, Severity
from taskserver.embedded.stack import EmbeddedStack
from taskserver.queries.diagnosis import read_stored, reread_moving
from tests.api_client import ApiClient, running_api
from tests.clinic import Clinic, opened_clinic
from tests.eventually import eventually
from tests.factories import StoredTask, execute, make_task, many
from tests.operators import use

HUNDRED_THOUSAND = (
    "INSERT INTO subtasks (id, task_id) SELECT nextval('subtask_ids'), :task FROM generate_series(2, 100000)",
    "INSERT INTO subtask_specs (id, task_id, series_id, key, kind) SELECT id, task_id, id, id::text, 'test.kind'"
    " FROM subtasks AS s WHERE task_id = :task AND NOT EXISTS (SELECT FROM subtask_specs AS d WHERE d.id = s.id)",
    "UPDATE task_progress SET pending = 100000, startable = 100000 WHERE id = :task",
)


@pytest.fixture
def clinic(engine: Engine, stack: EmbeddedStack) -> Iterator[Clinic]:
    with opened_clinic(engine, stack) as clinic:
        yield clinic


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


def _refuse(row: StoredTask) -> None:
    """Take a row that was inserted by SQL, as a dispatcher does with one that cannot be started."""
    with transaction(row.engine) as connection:
        assert inserted.refuse_inserted(connection, row.id, kind="no_definition", message="there is none")


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

    @pytest.mark.parametrize("verb", [None, "retry", "rollback"])
    def test_a_kind_that_a_worker_has_declined_is_named_while_it_is_not_offered(
        self, clinic: Clinic, engine: Engine, verb: str | None
    ) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"kind": "host.mount", "has_rollback": True}})
        clinic.worker(carriers=[1, 2])
        if verb is not None:
            task.run("a", verdict="FAILED")
            use(task, verb)
        [claimed] = task.begin("a")
        task.decline("a", claim=claimed.claim)

        found = clinic.only(task)

        assert (found.type, found.severity, found.subtask_count) == ("kind_unknown", Severity.ERROR, 1)

    def test_what_was_declined_does_not_hide_an_attempt_that_is_to_come(self, clinic: Clinic, engine: Engine) -> None:
        declined = [f"d{number}" for number in range(SHOWN + 1)]
        task = make_task(engine, dict.fromkeys(["a", *declined], ()), {key: {"kind": "host.mount"} for key in declined})
        clinic.worker(carriers=[1, 2])
        task.run("a", verdict="RETRY", delay_seconds=600.0)
        [claim] = {one.claim for one in task.begin(*declined)}
        task.decline(*declined, claim=claim, kinds=["test.kind"])

        found = clinic.findings(task)

        assert [(one.type, one.subtask_count) for one in found] == [("kind_unknown", len(declined)), ("retry", 1)]

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

    def test_a_lost_message_is_named_while_another_branch_moves(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"lost": (), "other": ()})
        task.release("lost")
        task.set("lost", "released_at = now() - interval '60 s'")
        clinic.worker()

        found = clinic.findings_while(task, lambda: task.run("other", verdict="RETRY", delay_seconds=0.0))

        assert [(one.type, one.subtasks) for one in found] == [("message_lost", [task.ids["lost"]])]

    def test_a_missing_dispatcher_is_named_while_what_had_been_released_ends(
        self, clinic: Clinic, engine: Engine
    ) -> None:
        running = [f"r{number}" for number in range(60)]
        task = make_task(engine, dict.fromkeys(["a", *running], ()))
        held = task.begin(*running)
        clinic.worker(claims=[held[0].claim])

        found = clinic.findings_while(task, lambda: task.record([held.pop()]) if held else None)

        assert [one.type for one in found] == ["dispatcher"]
        assert "1 subtask could start" in found[0].message

    def test_what_a_dispatcher_releases_in_its_turn_is_no_finding(self, clinic: Clinic, engine: Engine) -> None:
        """The last of them stands still all the while."""
        task = make_task(engine, {"first": (), "last": ()}, {"last": {"kind": "host.mount"}})
        clinic.worker(kinds=None)

        found = clinic.findings_while(task, lambda: task.run("first", verdict="RETRY", delay_seconds=0.0))

        assert found == ()

    @pytest.mark.parametrize(
        ("statement", "words"),
        [
            (
                "UPDATE task_progress SET open = false, opens_at = now() - interval '60 s'",
                "its start was due 1 min ago",
            ),
            ("UPDATE tasks SET deadline_at = now() - interval '60 s'", "its deadline passed 1 min ago"),
            (
                "UPDATE tasks SET subtask_count = NULL, created_at = created_at - 60000",
                "inserted by SQL 1 min ago, and no row of its account was started while it was watched for 3 s",
            ),
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

    def test_a_row_inserted_by_sql_whose_line_moves_waits_its_turn(self, clinic: Clinic, engine: Engine) -> None:
        insert = """
            INSERT INTO tasks (name, created_at)
            SELECT 'row', (extract(epoch FROM now()) * 1000)::bigint - 60000 FROM generate_series(1, 200) RETURNING id
        """
        line = [StoredTask(engine, TaskId(row["id"]), {}) for row in many(engine, insert)]
        last = line.pop()

        found = clinic.findings_while(last, lambda: _refuse(line.pop(0)))

        assert found == ()
        assert "waits in the line of rows that were inserted by SQL" in clinic.summary(last)

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


class TestWatch:
    """What is read again, of a task with work that should move."""

    WAITS = Waits(5, 2, 10)

    def still_lies(self, engine: Engine, before: Stored) -> list[int]:
        after = reread_moving(engine, before, waits=self.WAITS)
        return sorted(one for group in after.groups for one in group.some)

    def look(self, engine: Engine, task: StoredTask) -> Stored:
        return read_stored(engine, task.id, account="0", waits=self.WAITS)

    def test_what_could_start_and_was_not_released_still_lies(self, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ()})

        assert self.still_lies(engine, self.look(engine, task)) == [task.ids["a"], task.ids["b"]]

    def test_one_that_was_released_shows_that_a_dispatcher_looks_after_all(self, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": (), "c": ()}, {"b": {"kind": "other"}, "c": {"queue": "gpu"}})
        before = self.look(engine, task)
        task.release("a")

        assert self.still_lies(engine, before) == []

    def test_a_release_shows_also_when_it_was_handed_back_since(self, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        before = self.look(engine, task)
        task.hand_back("a", carrier=task.release("a")["a"])

        assert self.still_lies(engine, before) == []

    def test_what_becomes_startable_meanwhile_moves_nothing(self, engine: Engine) -> None:
        early = [f"e{number}" for number in range(SHOWN)]
        task = make_task(engine, {"first": (), **dict.fromkeys(early, ("first",)), "late": ()})
        held = task.begin("first")
        before = self.look(engine, task)
        task.record(held)

        assert self.still_lies(engine, before) == [task.ids["late"]]

    def test_what_a_worker_has_taken_up_shows_that_its_queue_moves(self, engine: Engine, clinic: Clinic) -> None:
        options = {"b": {"kind": "other"}, "c": {"queue": "gpu"}}
        task = make_task(engine, {"a": (), "b": (), "c": ()}, options)
        carriers = task.release("a", "b", "c")
        execute(engine, "UPDATE subtasks SET released_at = now() - interval '60 s'")
        before = self.look(engine, task)
        clinic.worker(carriers=[carriers["a"]])

        assert self.still_lies(engine, before) == [task.ids["c"]]

    def test_a_message_that_was_sent_again_has_moved(self, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        carrier = task.release("a")["a"]
        task.set("a", "released_at = now() - interval '60 s'")
        before = self.look(engine, task)
        task.recall_lost(carrier, "a")

        assert self.still_lies(engine, before) == []


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

    def test_another_accounts_task_is_not_there(self, clinic: Clinic, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, account="7")

        with pytest.raises(NotFound):
            examine(engine, clinic.redis, clinic.settings, TaskId(task.id), account="0")


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
