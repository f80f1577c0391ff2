"""The published tasks table through SQL: what is made of the values that programs write, which may be changed, and what a
DELETE takes with it.
"""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.limits import DEFAULT_LIMITS
from schema.transitions import definitions
from schema.transitions.definitions import NewDefinition
from schema.transitions.registrations import register_kinds
from taskserver.dispatcher.intake import Intake
from taskserver.queries.details import task_detail
from tests.factories import execute, make_task, many, one
from tests.integration.test_inserted_tasks import ECHO, SUBTASKS, insert, row
from tests.invariants import assert_invariants

IDS = ("integration_id", "user_id", "client_id", "account_id", "template_id")
# As an ORM writes a row that it has read.
WHOLE = "integration_id = 1, client_id = 3, account_id = 4, template_id = :template, argument = :argument, status = 3"


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


@pytest.fixture
def template(engine: Engine) -> int:
    with transaction(engine) as connection:
        register_kinds(connection, [ECHO], code_version="v")
        new = NewDefinition("0", "prepare", {"subtasks": SUBTASKS}, "admin")
        return definitions.put_definition(connection, new).id


@pytest.fixture
def intake(engine: Engine) -> Intake:
    return Intake(engine, DEFAULT_LIMITS)


def alter(engine: Engine, change: str, *columns: str) -> None:
    execute(engine, f"ALTER TABLE tasks {', '.join(f'ALTER COLUMN {name} {change}' for name in columns)}")


class TestPublishedColumns:
    def test_times_in_seconds_become_milliseconds(self, engine: Engine, template: int) -> None:
        task = insert(engine, template, created_at=1721818960, updated_at=1721818961)

        found = row(engine, task)
        assert (found["created_at"], found["updated_at"]) == (1721818960000, 1721818961000)

    def test_times_in_milliseconds_are_kept(self, engine: Engine, template: int) -> None:
        task = insert(engine, template, created_at=1721818960936, updated_at=1721818960937)

        found = row(engine, task)
        assert (found["created_at"], found["updated_at"]) == (1721818960936, 1721818960937)

    @pytest.mark.parametrize("nothing", [0, None])
    def test_what_an_orm_left_empty_is_filled(self, engine: Engine, template: int, nothing: int | None) -> None:
        task = insert(engine, template, id=nothing, status=nothing, created_at=nothing, updated_at=nothing)

        found = row(engine, task)
        now = one(engine, "SELECT extract(epoch FROM now()) * 1000 AS ms")["ms"]
        assert (found["id"], found["status"]) == (1, 0)
        assert abs(found["created_at"] - now) < 60_000
        assert abs(found["updated_at"] - now) < 60_000

    def test_an_orm_that_saves_its_row_again_changes_neither_status_nor_times_for_the_worse(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        task = insert(engine, template, created_at=1721818960)
        intake.take_all()
        before = row(engine, task)

        for created in (1721818960, 0, before["created_at"]):
            execute(engine, "UPDATE tasks SET status = 3, created_at = :created, updated_at = 5", created=created)

            found = row(engine, task)
            assert (found["status"], found["created_at"]) == (0, 1721818960000)
            assert found["updated_at"] >= before["updated_at"]

    @pytest.mark.parametrize("name", [*IDS, "argument"])
    def test_what_an_orm_sends_as_null_is_stored_as_nothing(self, engine: Engine, template: int, name: str) -> None:
        nothing = "" if name == "argument" else 0
        task = insert(engine, template, **{name: None} if name != "argument" else {}, argument=None)

        assert row(engine, task)[name] == nothing
        execute(engine, f"UPDATE tasks SET {name} = 7")
        execute(engine, f"UPDATE tasks SET {name} = NULL")
        assert row(engine, task)[name] == nothing

    def test_a_table_that_an_orm_has_brought_to_its_struct_serves_all_who_insert(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        alter(engine, "SET NOT NULL", *IDS, "argument")
        alter(engine, "DROP NOT NULL", "created_at", "updated_at")
        alter(engine, "DROP DEFAULT", *IDS, "argument", "created_at", "updated_at")

        task = insert(engine, template)
        intake.take_all()

        found = [row(engine, one) for one in (task, make_task(engine, {"a": ()}).id)]
        assert [[one[name] for name in IDS if name != "template_id"] for one in found] == [[0, 0, 0, 0]] * 2
        assert all(one["created_at"] > 1_700_000_000_000 and one["updated_at"] > 1_700_000_000_000 for one in found)


class TestSettled:
    """Rows of another system, which are inserted as done: nothing of them runs."""

    @pytest.mark.parametrize(("status", "state"), [(2, "SUCCESSFUL"), (3, "FAILED")])
    def test_a_row_that_is_inserted_as_done_is_stored_as_that(
        self, engine: Engine, template: int, intake: Intake, status: int, state: str
    ) -> None:
        task = insert(engine, template, status=status, created_at=1721818960936, updated_at=1721818961, user_id=7)

        intake.take_all()

        found = row(engine, task)
        assert (found["state"], found["status"], found["subtask_count"], found["user_id"]) == (state, status, 0, 7)
        assert (found["created_at"], found["updated_at"]) == (1721818960936, 1721818961000)
        assert found["finalized_at"].timestamp() == 1721818961
        assert (found["task_type"], found["definition_id"]) == ("prepare", template)
        error = {"type": "inserted", "message": "inserted as failed"} if status == 3 else None
        assert found["error"] == error
        assert one(engine, "SELECT state, error FROM sync_history") == {"state": state, "error": error}
        assert many(engine, "SELECT id FROM subtasks") == []

    def test_what_it_names_need_not_be_there(self, engine: Engine) -> None:
        task = insert(engine, 999, "no json", status=2, created_at=-5, updated_at=2**63 - 1)

        detail = task_detail(engine, task, account="0", silence_seconds=5)
        assert (detail.state, detail.arguments, detail.subtasks) == ("SUCCESSFUL", "no json", [])

    @pytest.mark.parametrize("status", [-1, 4])
    def test_a_status_that_there_is_not_is_refused(self, engine: Engine, template: int, status: int) -> None:
        with pytest.raises(Exception, match=f"status {status} is not a status: use 0 .* or 3"):
            insert(engine, template, status=status)

        assert many(engine, "SELECT id FROM tasks") == []


class TestUpdate:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("argument = '{}'", "its argument cannot be changed"),
            ("argument = NULL", "its argument cannot be changed"),
            ("template_id = 999", "its template_id cannot be changed"),
            ("template_id = 999, argument = '{}'", "its argument and template_id cannot be changed"),
        ],
    )
    def test_what_was_started_is_not_changed_any_more(
        self, engine: Engine, template: int, intake: Intake, change: str, said: str
    ) -> None:
        task = insert(engine, template)
        intake.take_all()

        with pytest.raises(Exception, match=f"task {task} has been taken: {said}"):
            execute(engine, f"UPDATE tasks SET {change}")

        assert (row(engine, task)["argument"], row(engine, task)["template_id"]) == ('{"n": 1}', template)

    def test_a_row_that_is_saved_as_a_whole_changes_what_may_be_changed(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        task = insert(engine, template)
        intake.take_all()

        execute(engine, f"UPDATE tasks SET {WHOLE}, user_id = 9", template=template, argument='{"n": 1}')

        found = row(engine, task)
        assert [found[name] for name in IDS] == [1, 9, 3, 4, template]
        assert (found["argument"], found["status"]) == ('{"n": 1}', 0)

    def test_who_saves_what_he_inserted_does_not_undo_what_the_definition_added(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        with transaction(engine) as connection:
            added = NewDefinition("0", "prepare", {"subtasks": SUBTASKS, "arguments": {"m": 2}}, "admin")
            definitions.put_definition(connection, added)
        task = insert(engine, template)
        intake.take_all()

        execute(engine, f"UPDATE tasks SET {WHOLE}", template=template, argument='{"n": 1}')

        assert json.loads(row(engine, task)["argument"]) == {"n": 1, "m": 2}
        with pytest.raises(Exception, match="its argument cannot be changed"):
            execute(engine, f"UPDATE tasks SET {WHOLE}", template=template, argument='{"n": 2}')


class TestDelete:
    def test_nothing_is_left_of_a_settled_task_but_its_history(self, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        task.run("a", result={"n": 1})
        task.run("b", verdict="FAILED")
        other = make_task(engine, {"a": (), "b": ("a",)})

        execute(engine, "DELETE FROM tasks WHERE id = :id", id=task.id)

        for table in (
            "subtasks",
            "subtask_specs",
            "subtask_edges",
            "subtask_attempts",
            "subtask_results",
            "operations",
        ):
            assert many(engine, f"SELECT * FROM {table} WHERE task_id = :id", id=task.id) == []
        history = many(engine, "SELECT task_id, state FROM sync_history ORDER BY 1")
        assert [tuple(one.values()) for one in history] == [(task.id, "FAILED"), (other.id, "CREATED")]
        assert other.states() == {"a": "PENDING", "b": "PENDING"}

    @pytest.mark.parametrize("state", ["RUNNING", "SUSPENDED"])
    def test_a_task_that_has_begun_cannot_be_deleted(self, engine: Engine, state: str) -> None:
        task = make_task(engine, {"a": ()})
        task.begin("a")
        execute(engine, "UPDATE tasks SET state = :state", state=state)

        with pytest.raises(Exception, match=f"task {task.id} is {state}: it cannot be deleted"):
            execute(engine, "DELETE FROM tasks")

        assert task.states() == {"a": "RUNNING"}
        execute(engine, "UPDATE tasks SET state = 'RUNNING'")

    def test_one_that_was_deleted_before_it_was_taken_is_never_started(
        self, engine: Engine, template: int, intake: Intake
    ) -> None:
        task = insert(engine, template)
        execute(engine, "DELETE FROM tasks")

        intake.take_all()

        history = one(engine, "SELECT task_id, state, error FROM sync_history")
        assert (history["task_id"], history["state"], history["error"]["type"]) == (task, "REVOKED", "deleted")
        assert many(engine, "SELECT * FROM task_progress") == []
