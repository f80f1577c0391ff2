from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from schema.database import transaction
from schema.errors import DuplicateInstance
from schema.identity import TaskId
from schema.transitions import inserted, progress
from schema.transitions.creation import create_task
from tests.factories import execute, make_task, many, new_task, one, together
from tests.invariants import assert_invariants

SEED_COLUMNS = (
    "id, integration_id, user_id, client_id, account_id, template_id, argument, status, created_at, updated_at"
)


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def _submit(engine: Engine, **columns: Any) -> TaskId:
    with transaction(engine) as connection:
        return create_task(connection, new_task({"a": (), "b": ("a",)}, **columns))


def test_a_new_task_is_created_with_every_subtask_pending(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("a", "b")})

    assert (task.column("state"), task.column("status"), task.column("subtask_count")) == ("CREATED", 0, 3)
    assert task.states() == {"a": "PENDING", "b": "PENDING", "c": "PENDING"}
    assert [task.row(key)["pending_upstreams"] for key in "abc"] == [0, 1, 2]
    counters = task.progress()
    assert (counters.open, counters.startable, counters.pending) == (True, 1, 3)
    hex_id = task.column("task_id")
    assert len(hex_id) == 32
    assert hex_id.endswith("0" * 8)
    assert set(hex_id) <= set("0123456789abcdef")


def test_subtask_ids_ascend_in_the_order_given(engine: Engine) -> None:
    tasks = together(4, lambda _: make_task(engine, {f"s{number}": () for number in range(50)}))

    for task in tasks:
        ids = list(task.ids.values())
        assert ids == sorted(ids)


def test_everything_of_a_subtask_is_stored(engine: Engine) -> None:
    fields: dict[str, Any] = {
        "kind": "host.mount",
        "queue": "slow",
        "template_key": "mount",
        "name": "Mount it",
        "description": "all of it",
        "arguments": {"path": "/data", "deep": [1, {"$from": "a"}]},
        "from_keys": ("a", 'quoted "key", with comma', "ü"),
        "parallel_idx": 4,
        "timeout": 60.0,
        "max_attempts": 3,
        "backoff_seconds": 2.5,
        "has_rollback": True,
        "prohibit_rollback": True,
        "lost_is_failure": True,
    }
    task = make_task(engine, {"a": (), "b": ("a",)}, {"b": fields | {"isolated": True, "allow_failure": True}})

    stored = dict(one(engine, "SELECT * FROM subtask_specs WHERE id = :id", id=task.ids["b"]))
    assert {name: stored[name] for name in fields} == fields | {"from_keys": list(fields["from_keys"])}
    assert (task.row("b")["isolated"], task.row("b")["allow_failure"]) == (True, True)


def test_everything_of_a_task_is_stored(engine: Engine) -> None:
    start_at = datetime.now(UTC) + timedelta(days=2)
    columns: dict[str, Any] = {
        "name": "Prepare",
        "account": "7",
        "creator": "ops",
        "type": "SCHEDULED",
        "task_type": "prepare_host",
        "instance_id": 42,
        "extra": "x",
        "on_duplicate": "return",
        "duplicate_key": "k",
        "integration_id": 1,
        "user_id": 2,
        "client_id": 3,
        "account_id": 4,
        "template_id": 5,
        "biz_id": "6",
        "cluster": {"id": 100, "name": "meta"},
        "tenant": {"id": 1},
        "host_id": 8,
        "priority": 9,
        "concurrency": 10,
        "prohibit_rollback": True,
        "callback_url": "https://host/x",
        "deadline_seconds": 3600.0,
        "start_at": start_at,
        "trace_id": "t",
        "traceparent": "00-1",
    }
    task = make_task(engine, {"a": ()}, **columns, arguments={"host": "10.0.0.7"})

    stored = dict(one(engine, "SELECT * FROM tasks"))
    assert {name: stored[name] for name in columns} == columns
    assert stored["argument"] == '{"host": "10.0.0.7"}'
    assert stored["deadline_at"] == start_at + timedelta(hours=1)
    assert task.progress().concurrency == 10
    assert one(engine, "SELECT account, priority FROM task_progress") == {"account": "7", "priority": 9}


def test_a_deadline_counts_from_the_submission_when_the_start_has_passed(engine: Engine) -> None:
    make_task(engine, {"a": ()}, deadline_seconds=60.0, start_at=datetime(2020, 1, 1, tzinfo=UTC))

    assert one(engine, "SELECT deadline_at - now() > interval '50 seconds' AS ahead FROM tasks")["ahead"]


def test_a_wide_and_a_long_graph_are_stored_whole(engine: Engine) -> None:
    wide = {"root": (), **{f"w{number}": ("root",) for number in range(12_000)}}
    task = make_task(engine, wide)

    assert task.progress().pending == 12_001
    assert one(engine, "SELECT count(*) AS n FROM subtask_edges WHERE task_id = :id", id=task.id)["n"] == 12_000
    execute(engine, "ANALYZE")  # so that the promises of the whole table are read in no time


def test_a_submission_that_is_rolled_back_leaves_nothing(engine: Engine) -> None:
    connection = engine.connect()
    create_task(connection, new_task({"a": ()}))
    connection.rollback()
    connection.close()

    for table in ("tasks", "subtasks", "task_progress", "sync_history", "subtask_specs"):
        assert many(engine, f"SELECT * FROM {table}") == []


def test_a_submission_wakes_a_dispatcher_when_it_commits(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
        listener.exec_driver_sql(f"LISTEN {progress.STARTABLE_CHANNEL}")

        task = make_task(engine, {"a": ()})

        notices = list(listener.connection.driver_connection.notifies(timeout=5, stop_after=1))  # type: ignore[union-attr]
    assert [notice.payload for notice in notices] == [str(task.id)]


def test_a_second_task_with_the_same_duplicate_key_is_refused_and_told_the_holder(engine: Engine) -> None:
    holder = _submit(engine, duplicate_key="k", instance_id=42, task_type="sync")

    with pytest.raises(DuplicateInstance, match=f"task {holder} of type sync for instance 42") as caught:
        _submit(engine, duplicate_key="k", instance_id=42, task_type="sync")

    assert caught.value.target == str(holder)
    assert one(engine, "SELECT count(*) AS n FROM tasks")["n"] == 1


def test_of_fifty_that_submit_the_same_at_once_one_wins_and_the_others_learn_who(engine: Engine) -> None:
    def submit(_: int) -> TaskId | str | None:
        try:
            return _submit(engine, duplicate_key="k", instance_id=42)
        except DuplicateInstance as error:
            return error.target

    answers = together(50, submit)

    [winner] = [one for one in answers if isinstance(one, int)]
    assert answers.count(str(winner)) == 49


def test_a_refused_duplicate_names_a_task_although_holders_settle_all_the_time(engine: Engine) -> None:
    """The holder may settle between the refused insert and the look for it: then the submission simply succeeds."""

    def submit(_: int) -> list[str]:
        targets = []
        for _ in range(15):
            try:
                task = _submit(engine, duplicate_key="k", instance_id=42)
                execute(engine, "UPDATE tasks SET duplicate_key = NULL WHERE id = :id", id=task)
            except DuplicateInstance as error:
                targets.append(error.target or "")
        return targets

    targets = [target for each in together(8, submit) for target in each]

    assert [target for target in targets if not target.isdigit()] == []


def test_the_key_is_free_again_when_its_holder_has_settled(engine: Engine) -> None:
    make_task(engine, {"a": ()}, duplicate_key="k").run("a")

    assert _submit(engine, duplicate_key="k")


def test_without_a_duplicate_key_any_number_may_run(engine: Engine) -> None:
    assert len({_submit(engine, instance_id=42), _submit(engine, instance_id=42)}) == 2


def test_a_plain_insert_of_the_published_columns_works_with_its_defaults(engine: Engine) -> None:
    with transaction(engine) as connection:
        row = connection.execute(
            text(
                "INSERT INTO tasks (integration_id, user_id, client_id, account_id, template_id, argument)"
                """ VALUES (1, 1, 1, 1, 1, '{"project": "p", "status": "offline"}') RETURNING """ + SEED_COLUMNS
            )
        ).one()

    assert (row.id, row.status) == (1, 0)
    assert row.created_at == row.updated_at
    assert abs(row.created_at - datetime.now(UTC).timestamp() * 1000) < 60_000
    assert one(engine, "SELECT state, task_hex, account FROM sync_history")["state"] == "CREATED"
    assert one(engine, "SELECT open, startable, pending FROM task_progress") == {
        "open": False,
        "startable": 0,
        "pending": 0,
    }


def test_a_plain_insert_of_all_ten_columns_works_and_cannot_invent_a_status(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
        listener.exec_driver_sql(f"LISTEN {inserted.INSERTED_CHANNEL}")
        execute(engine, f"INSERT INTO tasks ({SEED_COLUMNS}) VALUES (900, 1, 2, 3, 4, 5, 'x', 1, 1721818960936, 1)")
        notices = list(listener.connection.driver_connection.notifies(timeout=5, stop_after=1))  # type: ignore[union-attr]

    assert len(notices) == 1
    row = one(engine, "SELECT status, state, created_at, template_id FROM tasks")
    assert dict(row) == {"status": 0, "state": "CREATED", "created_at": 1721818960936, "template_id": 5}


def test_the_status_of_the_published_table_follows_the_state_and_its_time_moves(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    before = task.column("updated_at")
    execute(engine, "UPDATE tasks SET updated_at = 1")

    execute(engine, "UPDATE tasks SET status = 3")

    assert task.column("status") == 0
    assert task.column("updated_at") >= before


@pytest.mark.parametrize(
    "change",
    [
        "state = 'FAILED'",
        "state = 'WHATEVER'",
        "operation = 'WHATEVER'",
        "priority = 10",
        "concurrency = 0",
        "schedule_id = 1",
    ],
)
def test_a_task_row_that_means_nothing_is_refused(engine: Engine, change: str) -> None:
    make_task(engine, {"a": ()})

    with pytest.raises(IntegrityError):
        execute(engine, f"UPDATE tasks SET {change}")


@pytest.mark.parametrize(
    "change",
    [
        "state = 'READY'",
        "state = 'RUNNING'",
        "state = 'SUCCESSFUL'",
        "state = 'WHATEVER'",
        "claim = 1, process = 1, started_at = now()",
        "pending_upstreams = -1",
        "gate = 'WHATEVER'",
    ],
)
def test_a_subtask_row_that_means_nothing_is_refused(engine: Engine, change: str) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})

    with pytest.raises(IntegrityError):
        task.set("b", change)


def test_what_waits_for_its_upstreams_cannot_be_made_ready_by_any_statement(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})

    with pytest.raises(IntegrityError, match="upstreams_are_done"):
        task.set("b", "state = 'READY', carrier = 1, released_at = now()")
