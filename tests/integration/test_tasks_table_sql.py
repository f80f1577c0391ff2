"""The published tasks table through SQL: what is made of the values that programs write, and what a DELETE takes with it."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.limits import DEFAULT_LIMITS
from schema.transitions import definitions
from schema.transitions.definitions import NewDefinition
from schema.transitions.registrations import register_kinds
from taskserver.dispatcher.intake import Intake
from tests.factories import execute, make_task, many, one
from tests.integration.test_inserted_tasks import ECHO, SUBTASKS, insert, row
from tests.invariants import assert_invariants


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
