"""Deleting settled tasks: whole or not at all, and nobody's work is lost by it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from schema.database import transaction
from schema.errors import NotFound, WrongState
from schema.identity import TaskId
from schema.states import SETTLED_TASK_STATES, TaskState
from schema.transitions.deletion import delete_settled
from schema.transitions.orders import Order
from schema.transitions.retries import retry_task
from taskserver.deletions import delete_tasks
from taskserver.queries.cmdb_tasks import Settled
from tests.eventually import eventually
from tests.factories import StoredTask, execute, make_task, many, one, together

ORDER = Order("operator", "0")
# What outlives a task on purpose.
KEPT = {"sync_history", "idempotency_keys"}


def rows_of(engine: Engine, task: StoredTask) -> dict[str, int]:
    """Count the rows of a task in every table that names tasks."""
    named = many(
        engine,
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name = 'task_id' AND data_type = 'bigint'",
    )
    tables = {row["table_name"]: "task_id" for row in named} | {"tasks": "id", "task_progress": "id"}
    counts = {
        name: one(engine, f"SELECT count(*) AS count FROM {name} WHERE {column} = :task", task=task.id)["count"]
        for name, column in tables.items()
        if name not in KEPT
    }
    return {name: count for name, count in counts.items() if count}


def failed_task(engine: Engine, **columns: Any) -> StoredTask:
    """Return a task with something in every table."""
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("b",)}, **columns)
    task.run("a", result={"x": 1})
    claimed = task.begin("b")
    with transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO subtask_logs (subtask_id, claim, sequence, task_id, text) VALUES (:s, :c, 0, :t, 'line')"
            ),
            {"s": claimed[0].id, "c": claimed[0].claim, "t": task.id},
        )
        connection.execute(
            text("INSERT INTO subtask_signals (subtask_id, task_id, principal) VALUES (:s, :t, 'somebody')"),
            {"s": task.ids["c"], "t": task.id},
        )
    task.record(claimed, "FAILED")
    with task.locked() as (connection, _):
        retry_task(connection, task.id, ORDER)
    task.run("b", verdict="FAILED")
    return task


def delete(engine: Engine, *tasks: StoredTask) -> list[TaskId]:
    with transaction(engine) as connection:
        return delete_settled(connection, [task.id for task in tasks])


def test_a_settled_task_goes_with_all_that_is_recorded_of_it(engine: Engine) -> None:
    task = failed_task(engine)
    before = rows_of(engine, task)

    deleted = delete(engine, task)

    assert deleted == [task.id]
    assert rows_of(engine, task) == {}
    assert before == {
        "tasks": 1,
        "task_progress": 1,
        "subtasks": 3,
        "subtask_specs": 3,
        "subtask_edges": 2,
        "subtask_attempts": 3,
        "subtask_results": 1,
        "subtask_logs": 1,
        "subtask_signals": 1,
        "operations": 1,
    }


def test_the_history_of_a_deleted_task_stays_as_it_was(engine: Engine) -> None:
    task = failed_task(engine, instance_id=5)
    question = "SELECT * FROM sync_history WHERE task_id = :task"
    before = one(engine, question, task=task.id)

    delete(engine, task)

    assert dict(one(engine, question, task=task.id)) == dict(before)


def test_neighbours_of_a_deleted_task_keep_everything(engine: Engine) -> None:
    gone, stays = failed_task(engine), failed_task(engine)
    before = rows_of(engine, stays)

    delete(engine, gone)

    assert rows_of(engine, stays) == before


@pytest.mark.parametrize("state", list(TaskState))
def test_only_settled_tasks_are_deleted(engine: Engine, state: TaskState) -> None:
    task = make_task(engine, {"a": ()})
    settled = state in SETTLED_TASK_STATES
    execute(
        engine,
        "UPDATE tasks SET state = :state, finalized_at = CASE WHEN :settled THEN now() END WHERE id = :task",
        state=state,
        settled=settled,
        task=task.id,
    )

    assert delete(engine, task) == ([task.id] if settled else [])
    assert bool(rows_of(engine, task)) != settled


def test_of_several_tasks_the_unsettled_are_left(engine: Engine) -> None:
    settled, open_, also_settled = failed_task(engine), make_task(engine, {"a": ()}), failed_task(engine)

    deleted = delete(engine, settled, open_, also_settled)

    assert deleted == [settled.id, also_settled.id]
    assert open_.states() == {"a": "PENDING"}


def test_what_is_not_there_is_no_error(engine: Engine) -> None:
    task = failed_task(engine)
    delete(engine, task)

    assert delete(engine, task) == []


def test_a_deletion_that_is_rolled_back_deletes_nothing(engine: Engine) -> None:
    task = failed_task(engine)
    before = rows_of(engine, task)

    with engine.connect() as connection:
        delete_settled(connection, [task.id])
        connection.rollback()

    assert rows_of(engine, task) == before


def test_a_retry_and_a_deletion_at_once_are_one_after_the_other(engine: Engine) -> None:
    for _ in range(5):
        task = failed_task(engine)

        def act(number: int, task: StoredTask = task) -> object:
            if number == 0:
                return delete(engine, task)
            try:
                with transaction(engine) as connection:
                    retry_task(connection, task.id, ORDER)
            except (NotFound, WrongState) as error:
                return error
            return None

        deleted, refused = together(2, act)

        # Whoever is first wins, and the other finds what the first has left.
        assert bool(deleted) == isinstance(refused, NotFound)
        assert bool(rows_of(engine, task)) == (refused is None)


def test_a_deletion_waits_for_whoever_holds_the_task_and_then_looks_again(engine: Engine) -> None:
    task = failed_task(engine)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%task_progress%'"

    with ThreadPoolExecutor(1) as pool:
        with task.locked() as (connection, _):
            deletion = pool.submit(delete, engine, task)
            eventually(lambda: many(engine, waiting), what="the deletion waits")
            retry_task(connection, task.id, ORDER)
        deleted = deletion.result()

    assert deleted == []
    assert task.column("state") == "RUNNING"


def test_many_are_deleted_in_portions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskserver.deletions._TASKS_AT_ONCE", 2)
    tasks = [failed_task(engine) for _ in range(5)]
    portions: list[int] = []

    def note(_connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if "DELETE FROM tasks" in statement:
            portions.append(cursor.rowcount)

    event.listen(engine, "after_cursor_execute", note)
    deleted = delete_tasks(engine, [Settled(task.id, 3) for task in tasks])
    event.remove(engine, "after_cursor_execute", note)

    assert (deleted, portions) == (5, [2, 2, 1])
    assert not many(engine, "SELECT id FROM tasks")


def test_a_large_task_is_a_portion_by_itself(engine: Engine) -> None:
    large = make_task(engine, {f"w[{index}]": () for index in range(10_001)})
    small = failed_task(engine)
    execute(engine, "UPDATE tasks SET state = 'REVOKED', finalized_at = now() WHERE id = :task", task=large.id)

    deleted = delete_tasks(engine, [Settled(large.id, 10_001), Settled(small.id, 3)])

    assert deleted == 2
    assert rows_of(engine, large) == rows_of(engine, small) == {}


def test_nothing_to_delete_is_no_work(engine: Engine) -> None:
    assert delete_tasks(engine, []) == 0
