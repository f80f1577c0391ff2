"""Many connections at work on one task and on several at once: no deadlock, no error, and every promise holds."""

import random

from sqlalchemy import Engine

from schema.database import transaction
from schema.transitions import releases
from tests.factories import StoredTask, execute, make_task, many, together
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


def test_claims_and_records_of_one_task_do_not_wait_for_another(engine: Engine) -> None:
    busy, other = make_task(engine, {"a": ()}), make_task(engine, {"a": ()})

    with busy.locked():
        other.run("a")

    assert other.column("state") == "SUCCESSFUL"
    execute(engine, "UPDATE tasks SET name = 'unlocked'")
