"""Tasks that come by a plain INSERT: started once, whoever takes them, or ended with a reason that helps."""

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from schema.database import transaction
from schema.documents.definition import Definition
from schema.identity import TaskId
from schema.kinds import KindInfo
from schema.limits import DEFAULT_LIMITS, Limits
from schema.transitions import cancellations, creation, definitions, inserted
from schema.transitions.definitions import NewDefinition, StoredVersion
from schema.transitions.inserted import Expansion
from schema.transitions.orders import Order
from schema.transitions.registrations import register_kinds
from taskserver.definitions import Resolver
from taskserver.dispatcher.intake import Intake
from taskserver.queries.details import task_detail
from tests.eventually import eventually
from tests.factories import execute, one, together
from tests.invariants import assert_invariants

ECHO = KindInfo("test.echo", {"type": "object", "properties": {"n": {"type": "integer"}}}, queue="echo")
SUBTASKS: list[dict[str, Any]] = [
    {"key": "a", "kind": "test.echo", "arguments": {"n": {"$arg": "/n"}}},
    {"key": "b", "kind": "test.echo", "upstreams": ["a"]},
]
INSERT = "INSERT INTO tasks (integration_id, user_id, client_id, account_id, template_id, argument)"


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    with transaction(engine) as connection:
        register_kinds(connection, [ECHO], code_version="v")
    yield
    assert_invariants(engine)


@pytest.fixture
def template(engine: Engine) -> int:
    return put(engine).id


@pytest.fixture
def intake(engine: Engine) -> Intake:
    return Intake(engine, DEFAULT_LIMITS)


def put(engine: Engine, name: str = "prepare", account: str = "0", **members: object) -> StoredVersion:
    document = {"subtasks": SUBTASKS, **members}
    with transaction(engine) as connection:
        return definitions.put_definition(connection, NewDefinition(account, name, document, "admin"))


def insert(engine: Engine, template: int | None, argument: str | None = '{"n": 1}', **columns: object) -> TaskId:
    """Insert the published columns, and those that are given beside them."""
    given = {"template_id": template, "argument": argument, **columns}
    statement = (
        f"INSERT INTO tasks ({', '.join(given)}) VALUES ({', '.join(f':{name}' for name in given)}) RETURNING id"
    )
    return TaskId(one(engine, statement, **given)["id"])


def row(engine: Engine, task: TaskId) -> dict[str, Any]:
    return dict(one(engine, "SELECT * FROM tasks WHERE id = :id", id=task))


def refused(engine: Engine, intake: Intake, task: TaskId) -> tuple[str, str]:
    """Let the row be taken; it has failed; return the type and message of its error."""
    intake.take_all()

    found = row(engine, task)
    assert (found["state"], found["status"], found["subtask_count"]) == ("FAILED", 3, 0)
    assert one(engine, "SELECT state, error FROM sync_history WHERE task_id = :id", id=task) == {
        "state": "FAILED",
        "error": found["error"],
    }
    return found["error"]["type"], found["error"]["message"]


class TestStart:
    def test_the_definition_is_started_with_the_argument(self, engine: Engine, template: int, intake: Intake) -> None:
        with transaction(engine) as connection:
            connection.execute(text(f"{INSERT} VALUES (1, 2, 3, 4, :id, '{{ \"n\": 7 }}')"), {"id": template})

        intake.take_all()

        task = one(engine, "SELECT * FROM tasks")
        assert (task["state"], task["subtask_count"], task["definition_id"]) == ("CREATED", 2, template)
        assert (task["name"], task["task_type"], task["account"]) == ("prepare", "prepare", "0")
        assert task["argument"] == '{ "n": 7 }'
        assert one(engine, "SELECT open, startable, pending FROM task_progress") == {
            "open": True,
            "startable": 1,
            "pending": 2,
        }
        detail = task_detail(engine, task["id"], account="0", silence_seconds=5)
        assert detail.arguments == {"n": 7}
        assert [(one.key, one.kind, one.upstreams) for one in detail.subtasks] == [
            ("a", "test.echo", []),
            ("b", "test.echo", [detail.subtasks[0].id]),
        ]

    def test_whoever_inserted_is_the_creator(self, engine: Engine, template: int) -> None:
        task = insert(engine, template)

        user = one(engine, "SELECT session_user AS name")["name"]
        assert row(engine, task)["creator"] == f"sql:{user}"

    @pytest.mark.parametrize("argument", [None, ""])
    def test_without_an_argument_the_defaults_of_the_definition_count(
        self, engine: Engine, intake: Intake, argument: str | None
    ) -> None:
        task = insert(engine, put(engine, arguments={"n": 3}).id, argument)

        intake.take_all()

        assert row(engine, task)["argument"] == '{"n": 3}'

    def test_an_argument_to_which_the_definition_adds_is_stored_with_that(self, engine: Engine, intake: Intake) -> None:
        task = insert(engine, put(engine, arguments={"m": 2}).id, '{"n":1}')

        intake.take_all()

        assert json.loads(row(engine, task)["argument"]) == {"n": 1, "m": 2}

    def test_nothing_is_stored_as_an_argument_where_there_is_none(self, engine: Engine, intake: Intake) -> None:
        task = insert(engine, put(engine, subtasks=[{"key": "a", "kind": "test.echo"}]).id, None)

        intake.take_all()

        assert (row(engine, task)["argument"], row(engine, task)["subtask_count"]) == ("", 1)

    def test_the_newest_version_is_started_whichever_the_id_is_of(self, engine: Engine, intake: Intake) -> None:
        first = put(engine)
        second = put(engine, concurrency=4)

        task = insert(engine, first.id)
        intake.take_all()

        found = row(engine, task)
        assert (found["template_id"], found["definition_id"], found["concurrency"]) == (first.id, second.id, 4)

    def test_the_task_is_of_the_account_whose_definition_it_is(self, engine: Engine, intake: Intake) -> None:
        task = insert(engine, put(engine, account="acme").id)

        intake.take_all()

        assert (row(engine, task)["account"], row(engine, task)["subtask_count"]) == ("acme", 2)
        for table in ("task_progress WHERE id", "sync_history WHERE task_id"):
            assert one(engine, f"SELECT account FROM {table} = :id", id=task)["account"] == "acme"

    def test_other_columns_that_were_given_are_kept(self, engine: Engine, template: int, intake: Intake) -> None:
        task = insert(
            engine, template, name="mine", creator="erp", priority=9, deadline_seconds=60, concurrency=2, biz_id="7"
        )

        intake.take_all()

        found = row(engine, task)
        assert (found["name"], found["creator"], found["priority"], found["biz_id"]) == ("mine", "erp", 9, "7")
        assert found["concurrency"] == one(engine, "SELECT concurrency FROM task_progress")["concurrency"] == 2
        assert found["deadline_at"] is not None

    def test_a_start_time_holds_it_back(self, engine: Engine, template: int, intake: Intake) -> None:
        insert(engine, template, start_at="2999-01-01T00:00:00Z")

        intake.take_all()

        progress = one(engine, "SELECT open, opens_at FROM task_progress")
        assert (progress["open"], progress["opens_at"].year) == (False, 2999)

    def test_what_was_changed_before_it_was_taken_counts(self, engine: Engine, template: int, intake: Intake) -> None:
        other = put(engine, "other").id
        task = insert(engine, template)
        execute(engine, "UPDATE tasks SET template_id = :other, argument = '{\"n\": 9}'", other=other)

        intake.take_all()

        assert (row(engine, task)["task_type"], row(engine, task)["definition_id"]) == ("other", other)
        assert row(engine, task)["argument"] == '{"n": 9}'

    def test_one_that_was_cancelled_before_is_left(self, engine: Engine, template: int, intake: Intake) -> None:
        task = insert(engine, template)
        with transaction(engine) as connection:
            cancellations.cancel_task(connection, task, Order("admin", account="0"))

        intake.take_all()

        assert (row(engine, task)["state"], row(engine, task)["subtask_count"]) == ("REVOKED", None)

    def test_those_who_insert_need_rights_on_the_table_alone(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        execute(engine, "CREATE ROLE only_rows LOGIN")
        try:
            with transaction(engine) as connection:
                connection.execute(text("GRANT INSERT, SELECT, DELETE ON tasks TO only_rows"))
                connection.execute(text("GRANT USAGE ON SEQUENCE tasks_id_seq TO only_rows"))
                connection.execute(text("SET LOCAL ROLE only_rows"))
                connection.execute(text("SET LOCAL search_path TO pg_catalog"))
                columns = "integration_id, user_id, client_id, account_id, template_id, argument"
                statement = f"INSERT INTO public.tasks ({columns}) VALUES (1, 1, 1, 1, :id, '{{\"n\": 1}}')"
                connection.execute(text(statement), {"id": template})
                connection.execute(text(statement), {"id": template})
                connection.execute(text("DELETE FROM public.tasks WHERE id = 2"))

            intake.take_all()

            assert one(engine, "SELECT id, subtask_count FROM tasks") == {"id": 1, "subtask_count": 2}
        finally:
            execute(engine, "DROP OWNED BY only_rows")
            execute(engine, "DROP ROLE only_rows")


class TestRefusal:
    @pytest.mark.parametrize("template", [None, 0, 999])
    def test_a_template_that_is_no_definition(self, engine: Engine, intake: Intake, template: int | None) -> None:
        kind, message = refused(engine, intake, insert(engine, template))

        assert kind == "no_definition"
        assert message.startswith(f"template_id {template or 0} is not the id of a definition of account '0': list")

    def test_a_definition_of_another_account(self, engine: Engine, intake: Intake) -> None:
        theirs = put(engine, account="acme").id

        kind, message = refused(engine, intake, insert(engine, theirs, account="mine"))

        assert kind == "no_definition"
        assert "of account 'mine'" in message

    def test_a_definition_that_was_deleted(self, engine: Engine, template: int, intake: Intake) -> None:
        with transaction(engine) as connection:
            definitions.delete_definition(connection, "0", "prepare")

        kind, message = refused(engine, intake, insert(engine, template))

        assert (kind, message.partition(":")[0]) == ("bad_definition", "definition 'prepare' does not exist")

    def test_a_definition_with_a_callback_alone(self, engine: Engine, intake: Intake) -> None:
        queue = put(engine, "queue", subtasks=None, callback={"url": "http://hooks.example.org"}).id

        kind, message = refused(engine, intake, insert(engine, queue))

        assert kind == "bad_definition"
        assert "has a callback and no subtasks" in message

    def test_a_kind_that_nobody_has(self, engine: Engine, intake: Intake) -> None:
        unknown = put(engine, "unknown", subtasks=[{"key": "a", "kind": "test.ecko"}]).id

        kind, message = refused(engine, intake, insert(engine, unknown))

        assert kind == "bad_definition"
        assert "test.ecko" in message
        assert "test.echo" in message

    @pytest.mark.parametrize(
        ("argument", "said"),
        [
            ("no json", "is not JSON: Expecting value at line 1, column 1"),
            ('{"n": 1', "is not JSON"),
            ("[1]", "is not a JSON object"),
            ("null", "is not a JSON object"),
            ('"n"', "is not a JSON object"),
            ('{"n": NaN}', "holds NaN"),
            ('{"n": 1e999}', "too large"),
            ('{"n": 1, "n": 2}', "has the same member twice"),
            ('{"n": ' + "9" * 5000 + "}", "thousands of digits"),
            ("[" * 100_000, "nested too deep"),
        ],
        ids=lambda value: value[:12],
    )
    def test_an_argument_that_is_no_json_object(
        self, engine: Engine, template: int, intake: Intake, argument: str, said: str
    ) -> None:
        kind, message = refused(engine, intake, insert(engine, template, argument))

        assert kind == "bad_argument"
        assert message.startswith("argument ")
        assert said in message

    @pytest.mark.parametrize("argument", ['{"n": "\\u0000"}', '{"n": ' + "[" * 70 + "]" * 70 + "}"])
    def test_an_argument_that_cannot_be_stored(
        self, engine: Engine, template: int, intake: Intake, argument: str
    ) -> None:
        kind, message = refused(engine, intake, insert(engine, template, argument))

        assert kind == "bad_argument"
        assert "/n" in message

    def test_an_argument_that_lacks_what_the_definition_takes(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        kind, message = refused(engine, intake, insert(engine, template, "{}"))

        assert kind == "bad_definition"
        assert "/n" in message

    def test_an_argument_that_is_too_large_is_not_even_read(self, engine: Engine, template: int) -> None:
        intake = Intake(engine, Limits(stored_bytes=1000))

        kind, message = refused(engine, intake, insert(engine, template, json.dumps({"n": "x" * 1000})))

        assert kind == "too_large"
        assert message.startswith("argument takes 1009 bytes, at most 1000 are stored (TASKSERVER_MAX_VALUE_BYTES)")

    def test_a_definition_that_hides_values_hides_a_text_in_which_they_cannot_be_found(
        self, engine: Engine, intake: Intake
    ) -> None:
        secret = put(engine, redact=["password"]).id
        task = insert(engine, secret, '{"n": 1, "password": "hunter2"')

        before = task_detail(engine, task, account="0", silence_seconds=5)
        _, message = refused(engine, intake, task)

        assert "hunter2" not in message
        for detail in (before, task_detail(engine, task, account="0", silence_seconds=5)):
            assert "hunter2" not in detail.model_dump_json()

    def test_a_secret_is_hidden_before_the_row_is_taken(self, engine: Engine) -> None:
        task = insert(engine, put(engine, redact=["password"]).id, '{"n": 1, "password": "hunter2"}')

        detail = task_detail(engine, task, account="0", silence_seconds=5)

        assert detail.arguments == {"n": 1, "password": "******"}


class TestInstances:
    def test_the_holder_of_the_instance_is_named(self, engine: Engine, template: int, intake: Intake) -> None:
        first = insert(engine, template, instance_id=42)
        intake.take_all()

        kind, message = refused(engine, intake, insert(engine, template, instance_id=42))

        assert kind == "duplicate"
        assert message.startswith(f"task {first} of type prepare for instance 42 has not settled: insert")

    def test_of_two_in_one_portion_the_first_holds_it(self, engine: Engine, template: int, intake: Intake) -> None:
        first, second = (insert(engine, template, instance_id=42) for _ in range(2))

        intake.take_all()

        assert [row(engine, one)["state"] for one in (first, second)] == ["CREATED", "FAILED"]

    def test_one_that_queues_waits_behind_the_holder(self, engine: Engine, template: int, intake: Intake) -> None:
        first, second = (insert(engine, template, instance_id=42, on_duplicate="queue") for _ in range(2))

        intake.take_all()

        key = row(engine, first)["duplicate_key"]
        assert (row(engine, second)["queued_key"], row(engine, second)["duplicate_of"]) == (key, first)

    def test_the_policy_of_the_definition_counts_where_the_row_has_none(self, engine: Engine, intake: Intake) -> None:
        queueing = put(engine, onDuplicate="queue").id
        tasks = [insert(engine, queueing, instance_id=42) for _ in range(2)]

        intake.take_all()

        assert [row(engine, one)["on_duplicate"] for one in tasks] == ["queue", "queue"]
        assert row(engine, tasks[1])["queued_key"] is not None

    def test_while_a_submission_takes_the_instance_nobody_waits_long_and_then_it_is_decided(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        key = json.dumps(["0", "prepare", 42, ""])
        other = insert(engine, template)
        task = insert(engine, template, instance_id=42)
        with transaction(engine) as connection:
            new = creation.NewTask("n", "0", "erp", [], task_type="prepare", instance_id=42, duplicate_key=key)
            holder = creation.create_task(connection, new)
            intake.take_all()
            assert [row(engine, one)["subtask_count"] for one in (other, task)] == [2, None]

        kind, message = refused(engine, intake, task)

        assert kind == "duplicate"
        assert message.startswith(f"task {holder} ")
        execute(engine, "DELETE FROM tasks WHERE id = :id", id=holder)

    def test_an_instance_that_is_taken_at_the_same_moment_is_lost(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        key = json.dumps(["0", "prepare", 42, ""])
        task = insert(engine, template, instance_id=42)
        taking = threading.Thread(target=intake.take_all)
        waiting = (
            "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%sync_history%'"
        )
        with transaction(engine) as connection:
            new = creation.NewTask("n", "0", "erp", [], task_type="prepare", instance_id=42, duplicate_key=key)
            holder = creation.create_task(connection, new)
            taking.start()
            eventually(lambda: one(engine, waiting)["n"] or not taking.is_alive(), what="nobody waits")
        taking.join()

        assert row(engine, task)["subtask_count"] is None
        assert refused(engine, intake, task)[1].startswith(f"task {holder} ")
        execute(engine, "DELETE FROM tasks WHERE id = :id", id=holder)


class TestTogether:
    def test_several_servers_take_each_row_once(self, engine: Engine, template: int) -> None:
        with transaction(engine) as connection:
            connection.execute(
                text(f"{INSERT} SELECT 1, 1, 1, 1, :id, '{{\"n\": 1}}' FROM generate_series(1, 300)"),
                {"id": template},
            )

        together(4, lambda _: Intake(engine, DEFAULT_LIMITS).take_all())

        states = "SELECT state, subtask_count, count(*) AS n FROM tasks GROUP BY 1, 2"
        assert one(engine, states) == {"state": "CREATED", "subtask_count": 2, "n": 300}
        assert one(engine, "SELECT count(*) AS n FROM subtasks")["n"] == 600

    def test_rows_that_came_by_copy_are_taken(self, engine: Engine, template: int, intake: Intake) -> None:
        with transaction(engine) as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            with driver.cursor().copy("COPY tasks (client_id, template_id, argument) FROM STDIN") as copy:
                for number in range(100):
                    copy.write_row((number, template, json.dumps({"n": number})))

        intake.take_all()

        assert one(engine, "SELECT count(*) AS n FROM tasks WHERE subtask_count = 2")["n"] == 100

    def test_a_statement_is_told_of_once_however_many_rows_it_inserts(self, engine: Engine, template: int) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
            for channel in (inserted.INSERTED_CHANNEL, "the_end"):
                listener.exec_driver_sql(f"LISTEN {channel}")
            for _ in range(2):
                execute(engine, f"{INSERT} SELECT 1, 1, 1, 1, :id, '{{}}' FROM generate_series(1, 9)", id=template)
            execute(engine, "NOTIFY the_end")

            driver = listener.connection.driver_connection
            notices = list(driver.notifies(timeout=5, stop_after=3))  # type: ignore[union-attr]

        assert [notice.channel for notice in notices] == [inserted.INSERTED_CHANNEL] * 2 + ["the_end"]

    def test_accounts_take_turns(self, engine: Engine, template: int) -> None:
        for _ in range(5):
            insert(engine, template)
        late = insert(engine, put(engine, account="acme").id)
        urgent = insert(engine, template, priority=9)

        with transaction(engine) as connection:
            taken = inserted.inserted_tasks(connection, limit=3)

        assert taken == [urgent, 1, late]

    def test_a_row_that_somebody_is_changing_keeps_no_other_waiting(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        held, free = insert(engine, template), insert(engine, template)
        with transaction(engine) as connection:
            connection.execute(text("UPDATE tasks SET argument = '{\"n\": 2}' WHERE id = :id"), {"id": held})

            intake.take_all()

            assert [row(engine, one)["subtask_count"] for one in (held, free)] == [None, 2]
        intake.take_all()
        assert (row(engine, held)["subtask_count"], row(engine, held)["argument"]) == (2, '{"n": 2}')

    def test_bad_rows_among_good_ones_fail_alone(self, engine: Engine, template: int, intake: Intake) -> None:
        tasks = [insert(engine, template, argument) for argument in ('{"n": 1}', "x", '{"n": 2}', "{}", '{"n": 3}')]

        intake.take_all()

        assert [row(engine, one)["state"] for one in tasks] == ["CREATED", "FAILED", "CREATED", "FAILED", "CREATED"]

    def test_a_row_that_the_product_stumbles_over_is_ended_and_the_others_start(
        self, engine: Engine, template: int, intake: Intake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        poisoned = put(engine, "poisoned").id
        newest = Resolver.newest

        def stumble(resolver: Resolver, name: str) -> tuple[int, Definition]:
            if name == "poisoned":
                raise ZeroDivisionError(name)
            return newest(resolver, name)

        monkeypatch.setattr(Resolver, "newest", stumble)
        bad, good = insert(engine, poisoned), insert(engine, template)

        kind, message = refused(engine, intake, bad)

        assert (kind, row(engine, good)["subtask_count"]) == ("internal", 2)
        assert message.startswith("this row could not be started (ZeroDivisionError)")

    def test_a_large_portion_is_cut(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        wide = put(engine, "wide", subtasks=[{"key": f"s{number}", "kind": "test.echo"} for number in range(600)]).id
        tasks = [insert(engine, wide) for _ in range(5)]
        portions: list[list[TaskId]] = []
        expand = inserted.expand_inserted
        lock = inserted.lock_inserted

        def locking(connection: Connection, *arguments: Any, **options: Any) -> Any:
            portions.append([])
            return lock(connection, *arguments, **options)

        def expanding(connection: Connection, expansions: Sequence[Expansion]) -> None:
            portions[-1].extend(expansion.task for expansion in expansions)
            expand(connection, expansions)

        monkeypatch.setattr(inserted, "lock_inserted", locking)
        monkeypatch.setattr(inserted, "expand_inserted", expanding)
        Intake(engine, DEFAULT_LIMITS).take_all()

        assert portions == [tasks[:2], tasks[2:4], tasks[4:]]


class TestThread:
    def test_it_looks_when_it_is_woken_and_by_itself(self, engine: Engine, template: int, intake: Intake) -> None:
        intake.start()
        try:
            first = insert(engine, template)
            eventually(lambda: row(engine, first)["subtask_count"] == 2, within=5, what="not found by looking")
            second = insert(engine, template)
            intake.wake()
            eventually(lambda: row(engine, second)["subtask_count"] == 2, within=5, what="not woken")
        finally:
            intake.stop()

    def test_what_a_crash_interrupts_is_taken_again_and_whole(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        task = insert(engine, template)

        def crash() -> None:
            with transaction(engine) as connection:
                [taken] = inserted.lock_inserted(connection, [task], argument_bytes=1000)
                new = creation.NewTask("n", "0", "c", [], task_type="prepare", definition_id=template)
                inserted.expand_inserted(connection, [Expansion(taken.id, new)])
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            crash()
        intake.take_all()

        assert row(engine, task)["subtask_count"] == 2
        assert one(engine, "SELECT count(*) AS n FROM subtasks")["n"] == 2
