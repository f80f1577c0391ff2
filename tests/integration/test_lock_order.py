"""Many connections at work on one task and on several at once: no deadlock, no error, and every promise holds."""

import random
from contextlib import suppress

from sqlalchemy import Engine, text

from schema.carriers import carrier_number
from schema.database import transaction
from schema.errors import Busy, WrongState
from schema.identity import TaskId
from schema.transitions import cancellations, holds, progress, records, releases
from schema.transitions.orders import Order
from schema.transitions.records import Verdict
from tests.factories import StoredTask, claim_within, execute, make_task, many, outcome, together
from tests.invariants import assert_invariants

THREADS = 8
ROUNDS = 40
WIDTH = 24


def test_threads_that_hammer_the_same_tasks_never_deadlock(engine: Engine) -> None:
    layers = {f"a{number}": () for number in range(WIDTH)} | {
        f"b{number}": tuple(f"a{other}" for other in range(number % 6, WIDTH, 6)) for number in range(WIDTH)
    }
    options = {key: {"max_attempts": 50, "allow_failure": True} for key in layers}
    tasks = [make_task(engine, layers, options, concurrency=limit) for limit in (None, 5)]

    together(THREADS, lambda number: _hammer(engine, tasks, number))

    assert_invariants(engine)
    assert sum(task.progress().successful for task in tasks) > 0


def _hammer(engine: Engine, tasks: list[StoredTask], number: int) -> None:
    generator = random.Random(number)
    for _ in range(ROUNDS):
        task = generator.choice(tasks)
        keys = generator.sample(list(task.ids), 6)
        match generator.randrange(7):
            case 0 | 1:
                task.release(*keys)
            case 2 | 3:
                claimed = task.claim(*keys, process=number)
                if claimed:
                    verdict = generator.choice(["SUCCESSFUL", "SUCCESSFUL", "RETRY"])
                    task.record(claimed, verdict, delay_seconds=generator.choice([0.0, 0.001]))  # type: ignore[arg-type]
            case 4:
                task.claim(*keys, process=number)
                task.hand_back(*keys, process=number)
            case 5:
                for row in many(engine, "SELECT task_id, claim, process FROM subtasks WHERE claim IS NOT NULL LIMIT 2"):
                    owner = next(one for one in tasks if one.id == row["task_id"])
                    owner.rescue(row["claim"], process=row["process"])
            case _:
                with transaction(engine) as connection:
                    releases.open_due_tasks(connection)
                    due = releases.tasks_with_due_delays(connection, limit=10)
                for one in due:
                    with transaction(engine) as connection:
                        releases.end_delays(connection, one)


def test_lines_move_on_between_verbs_and_dispatchers_that_lock_many(engine: Engine) -> None:
    """Who settles a holder locks a second task: nobody who has that one may wait for the first."""
    stored = [
        make_task(engine, {"a": ()}, duplicate_key=f"k{number % 3}", instance_id=number % 3, on_duplicate="queue")
        for number in range(120)
    ]
    tasks = {one.id: one for one in stored}

    together(THREADS, lambda number: _move_on(engine, tasks, number))
    for row in many(engine, "SELECT id FROM tasks WHERE state = 'SUSPENDED'"):
        with transaction(engine) as connection:
            holds.resume(connection, row["id"], Order("operator", "0"))
    while rows := many(engine, "SELECT id FROM task_progress WHERE open ORDER BY id"):
        for row in rows:
            tasks[row["id"]].run("a")

    assert_invariants(engine)
    ended = {row["state"] for row in many(engine, "SELECT state FROM tasks")}
    assert ended == {"SUCCESSFUL", "FAILED", "REVOKED"}


def _move_on(engine: Engine, tasks: dict[TaskId, StoredTask], number: int) -> None:
    generator = random.Random(number)
    for _ in range(ROUNDS):
        match number % 4:
            case 0 | 1:
                for row in many(engine, "SELECT id FROM task_progress WHERE open ORDER BY id"):
                    _run_held(engine, tasks[row["id"]], generator.choice(["SUCCESSFUL", "FAILED"]))
            case 2:
                with suppress(Busy), transaction(engine) as connection:
                    startable = list(releases.tasks_with_startable(connection, limit=200))
                    progress.lock_all(connection, progress.try_dispatch_locks(connection, startable))
            case _:
                task = generator.choice(list(tasks))
                verb = generator.choice([cancellations.cancel_task, holds.pause, holds.resume])
                with suppress(WrongState), transaction(engine) as connection:
                    verb(connection, task, Order("operator", "0"))


def _run_held(engine: Engine, task: StoredTask, verdict: Verdict) -> None:
    """Run the task in one transaction, as far as nobody else has done it meanwhile."""
    with transaction(engine) as connection:
        if progress.lock(connection, task.id).may_start:
            number = connection.execute(text("SELECT nextval('fragment_numbers')")).scalar_one()
            carrier = carrier_number(number, 0, 0)
            releases.release(connection, [task.id], [(task.ids["a"], carrier)], executor="server")
            claimed = claim_within(connection, task.id, [task.ids["a"]], process=1, executor="w")
            ended = [outcome(connection, one, verdict) for one in claimed]
            locked = progress.read(connection, task.id)
            records.record(connection, locked, ended, claim=claimed[0].claim, carrier=carrier)


def test_claims_and_records_of_one_task_do_not_wait_for_another(engine: Engine) -> None:
    busy, other = make_task(engine, {"a": ()}), make_task(engine, {"a": ()})

    with busy.locked():
        other.run("a")

    assert other.column("state") == "SUCCESSFUL"
    execute(engine, "UPDATE tasks SET name = 'unlocked'")
