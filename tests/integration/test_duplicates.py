"""Tasks that wait for the instance that another one holds: `onDuplicate: "queue"`."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from schema.database import transaction
from schema.errors import Busy, DuplicateInstance
from schema.identity import TaskId
from schema.transitions import cancellations, duplicates, holds, progress, releases
from schema.transitions.creation import create_task
from schema.transitions.orders import Order
from taskserver.dispatcher.upkeep import Upkeep
from tests.eventually import eventually
from tests.factories import StoredTask, execute, make_task, many, new_task, one
from tests.invariants import assert_invariants

KEY = "k"


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def hold(engine: Engine, **columns: Any) -> StoredTask:
    return make_task(engine, {"a": ()}, **{"duplicate_key": KEY, "instance_id": 1, **columns})


def queue(engine: Engine, **columns: Any) -> StoredTask:
    return hold(engine, **{"on_duplicate": "queue", **columns})


def is_open(task: StoredTask) -> bool:
    return task.progress().open


def stranded(engine: Engine, *, holder: StoredTask) -> StoredTask:
    """Return a task that queued behind a holder which settled before the queued one was committed."""
    with engine.connect() as late:
        task = create_task(late, new_task({"a": ()}, duplicate_key=KEY, instance_id=1, on_duplicate="queue"))
        holder.run("a")
        late.commit()
    subtask = one(engine, "SELECT id FROM subtasks WHERE task_id = :task", task=task)["id"]
    return StoredTask(engine, task, {"a": subtask})


def test_a_task_that_queues_is_stored_and_does_not_start(engine: Engine) -> None:
    holder, waiting = hold(engine), queue(engine)

    with transaction(engine) as connection:
        assert list(releases.tasks_with_startable(connection, limit=10)) == [holder.id]
    assert (waiting.column("state"), is_open(waiting)) == ("CREATED", False)
    assert (waiting.column("duplicate_key"), waiting.column("queued_key")) == (None, KEY)
    assert waiting.column("duplicate_of") == holder.id


def test_a_task_that_would_queue_for_what_nobody_holds_has_it_at_once(engine: Engine) -> None:
    task = queue(engine)

    assert (task.column("duplicate_key"), task.column("queued_key"), is_open(task)) == (KEY, None, True)


@pytest.mark.parametrize("verdict", ["SUCCESSFUL", "FAILED"])
def test_the_first_of_the_line_starts_when_the_holder_settles(engine: Engine, verdict: str) -> None:
    holder, first, second = hold(engine), queue(engine), queue(engine)

    holder.run("a", verdict=verdict)  # type: ignore[arg-type]

    assert (first.column("duplicate_key"), is_open(first)) == (KEY, True)
    assert (second.column("queued_key"), is_open(second)) == (KEY, False)


def test_a_line_runs_one_after_another_in_its_order(engine: Engine) -> None:
    line = [queue(engine) for _ in range(6)]

    for place, task in enumerate(line):
        assert [is_open(one) for one in line] == [at == place for at in range(6)]
        task.run("a", verdict="FAILED" if place % 2 else "SUCCESSFUL")

    assert [task.column("state") for task in line] == ["SUCCESSFUL", "FAILED"] * 3


def test_a_task_that_is_given_its_instance_wakes_a_dispatcher(engine: Engine) -> None:
    holder, waiting = hold(engine), queue(engine)
    [claimed] = holder.begin("a")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
        listener.exec_driver_sql(f"LISTEN {progress.STARTABLE_CHANNEL}")

        holder.record([claimed])

        notices = list(listener.connection.driver_connection.notifies(timeout=5, stop_after=1))  # type: ignore[union-attr]
    assert [notice.payload for notice in notices] == [str(waiting.id)]


def test_what_waits_for_another_instance_is_left_alone(engine: Engine) -> None:
    holder, other = hold(engine), hold(engine, duplicate_key="other")
    waiting = queue(engine, duplicate_key="other")

    holder.run("a")

    assert (is_open(waiting), is_open(other)) == (False, True)


@pytest.mark.parametrize("on_duplicate", ["reject", "return"])
def test_who_does_not_queue_is_told_the_holder_and_not_who_waits(engine: Engine, on_duplicate: str) -> None:
    holder = hold(engine)
    queue(engine)

    with pytest.raises(DuplicateInstance) as caught:
        hold(engine, on_duplicate=on_duplicate)

    assert caught.value.target == str(holder.id)


def test_a_start_time_that_is_still_to_come_is_waited_for_after_the_holder(engine: Engine) -> None:
    holder = hold(engine)
    waiting = queue(engine, start_at=datetime.now(UTC) + timedelta(days=1))

    holder.run("a")

    assert (waiting.column("duplicate_key"), is_open(waiting)) == (KEY, False)
    execute(engine, "UPDATE task_progress SET opens_at = now() WHERE opens_at IS NOT NULL")
    with transaction(engine) as connection:
        assert releases.open_due_tasks(connection) == [waiting.id]


def test_a_start_time_that_passes_does_not_open_what_still_waits(engine: Engine) -> None:
    holder = hold(engine)
    waiting = queue(engine, start_at=datetime.now(UTC) + timedelta(seconds=0.05))

    eventually(lambda: one(engine, "SELECT start_at < now() AS due FROM tasks WHERE id = :id", id=waiting.id)["due"])
    with transaction(engine) as connection:
        assert releases.open_due_tasks(connection) == []
    holder.run("a")

    assert is_open(waiting)


def test_a_paused_task_is_given_its_instance_and_stays_paused(engine: Engine) -> None:
    holder, waiting = hold(engine), queue(engine)
    order = Order("ops", "0")
    with transaction(engine) as connection:
        holds.pause(connection, waiting.id, order)

    holder.run("a")

    assert (waiting.column("duplicate_key"), is_open(waiting)) == (KEY, False)
    with transaction(engine) as connection:
        holds.resume(connection, waiting.id, order)
    assert is_open(waiting)


def test_a_task_that_is_paused_and_resumed_while_it_waits_goes_on_waiting(engine: Engine) -> None:
    holder, waiting = hold(engine), queue(engine)

    for verb in (holds.pause, holds.resume):
        with transaction(engine) as connection:
            verb(connection, waiting.id, Order("ops", "0"))
    assert not is_open(waiting)
    holder.run("a")

    assert is_open(waiting)


def test_it_is_the_turn_of_the_next_when_the_first_is_cancelled_meanwhile(engine: Engine) -> None:
    holder, first, second = hold(engine), queue(engine), queue(engine)
    [claimed] = holder.begin("a")

    with ThreadPoolExecutor(1) as pool, first.locked() as (connection, _):
        settling = pool.submit(holder.record, [claimed])
        eventually(lambda: waiting_for_locks(engine))
        cancellations.cancel_task(connection, first.id, Order("ops", "0"))
        connection.commit()
        settling.result(timeout=10)

    assert (second.column("duplicate_key"), is_open(second)) == (KEY, True)


def waiting_for_locks(engine: Engine) -> int:
    query = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return int(one(engine, query)["n"])


def test_what_is_cancelled_while_it_waits_leaves_the_line(engine: Engine) -> None:
    holder, first, second = hold(engine), queue(engine), queue(engine)

    with transaction(engine) as connection:
        cancellations.cancel_task(connection, first.id, Order("ops", "0"))
    holder.run("a")

    assert (first.column("state"), first.column("queued_key"), is_open(second)) == ("REVOKED", None, True)


def test_a_holder_that_is_cancelled_hands_its_instance_over(engine: Engine) -> None:
    holder, waiting = hold(engine), queue(engine)

    with transaction(engine) as connection:
        cancellations.cancel_task(connection, holder.id, Order("ops", "0"))

    assert (waiting.column("duplicate_key"), is_open(waiting)) == (KEY, True)


@pytest.mark.parametrize("change", ["duplicate_key = 'x'", "state = 'REVOKED', finalized_at = now()"])
def test_what_waits_holds_nothing_and_has_not_settled(engine: Engine, change: str) -> None:
    hold(engine)
    waiting = queue(engine)

    with pytest.raises(IntegrityError, match="queued_holds_nothing"):
        execute(engine, f"UPDATE tasks SET {change} WHERE id = :id", id=waiting.id)


class TestStranded:
    """What was committed just after its holder had settled: nobody was there to hand over."""

    def test_a_look_helps_it_on(self, engine: Engine) -> None:
        waiting = stranded(engine, holder=hold(engine))
        assert (waiting.column("queued_key"), is_open(waiting)) == (KEY, False)

        Upkeep(engine).look()

        assert (waiting.column("duplicate_key"), is_open(waiting)) == (KEY, True)

    def test_the_first_of_several_is_helped_on(self, engine: Engine) -> None:
        first = stranded(engine, holder=hold(engine))
        second = queue(engine)

        Upkeep(engine).look()
        Upkeep(engine).look()

        assert (is_open(first), is_open(second)) == (True, False)

    @pytest.mark.parametrize("on_duplicate", ["reject", "return"])
    def test_nobody_jumps_the_queue(self, engine: Engine, on_duplicate: str) -> None:
        waiting = stranded(engine, holder=hold(engine))

        with pytest.raises(DuplicateInstance) as caught:
            hold(engine, on_duplicate=on_duplicate)

        assert caught.value.target == str(waiting.id)

    def test_who_is_about_to_take_the_instance_is_not_waited_for(self, engine: Engine) -> None:
        with engine.connect() as late:
            waiting = self._committed_behind_a_taker(engine, late)

            with pytest.raises(Busy), transaction(engine) as connection:
                duplicates.adopt(connection, KEY)
            late.commit()

        Upkeep(engine).look()
        assert (waiting.column("queued_key"), is_open(waiting)) == (KEY, False)

    def test_who_took_the_instance_first_keeps_it(self, engine: Engine) -> None:
        with engine.connect() as late:
            waiting = self._committed_behind_a_taker(engine, late)
            with ThreadPoolExecutor(1) as pool:
                looked = pool.submit(Upkeep(engine).look)
                eventually(lambda: waiting_for_locks(engine))
                late.commit()
                looked.result(timeout=10)

        assert waiting.column("queued_key") == KEY

    def _committed_behind_a_taker(self, engine: Engine, late: Any) -> StoredTask:
        """Return a stranded task, beside which an uncommitted one has the instance: it saw neither of the two."""
        holder = hold(engine)
        with engine.connect() as queueing:
            columns = {"duplicate_key": KEY, "instance_id": 1}
            task = create_task(queueing, new_task({"a": ()}, on_duplicate="queue", **columns))
            holder.run("a")
            create_task(late, new_task({"a": ()}, **columns))
            queueing.commit()
        subtask = one(engine, "SELECT id FROM subtasks WHERE task_id = :task", task=task)["id"]
        return StoredTask(engine, task, {"a": subtask})

    def test_many_lines_are_looked_at_in_portions(self, engine: Engine) -> None:
        for number in range(7):
            hold(engine, duplicate_key=f"k{number}")
            queue(engine, duplicate_key=f"k{number}")
        execute(engine, "UPDATE tasks SET duplicate_key = NULL WHERE duplicate_key IN ('k1', 'k5')")

        with transaction(engine) as connection:
            first = duplicates.orphaned_keys(connection, after="", limit=4)
            second = duplicates.orphaned_keys(connection, after=first[1], limit=4)

        assert first == (["k1"], "k3")
        assert second == (["k5"], "")


def test_lines_move_on_while_others_submit_and_cancel(engine: Engine) -> None:
    """Settlements, submissions of every mode and looks at once: no deadlock, and everything settles in the end."""
    stop = threading.Event()

    def settle() -> None:
        while not stop.is_set():
            for task in open_tasks(engine):
                task.run("a")

    def look() -> None:
        upkeep = Upkeep(engine)
        while not stop.is_set():
            upkeep.look()

    def submit(number: int) -> list[TaskId]:
        stored = []
        for _ in range(12):
            with suppress(DuplicateInstance):
                stored.append(hold(engine, on_duplicate=("queue", "queue", "reject", "return")[number % 4]).id)
        return stored

    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(settle), pool.submit(look)]
        submitted = [task for each in pool.map(submit, range(6)) for task in each]
        eventually(lambda: not unsettled(engine), within=60, what="everything settles")
        stop.set()
        for other in others:
            other.result(timeout=10)

    states = {row["id"]: row["state"] for row in many(engine, "SELECT id, state FROM tasks")}
    assert {states[task] for task in submitted} == {"SUCCESSFUL"}


def open_tasks(engine: Engine) -> list[StoredTask]:
    query = """
        SELECT p.id, s.id AS subtask FROM task_progress p JOIN subtasks s ON s.task_id = p.id
        WHERE p.open AND p.startable > 0
    """
    return [StoredTask(engine, row["id"], {"a": row["subtask"]}) for row in many(engine, query)]


def unsettled(engine: Engine) -> int:
    return int(one(engine, "SELECT count(*) AS n FROM tasks WHERE finalized_at IS NULL")["n"])
