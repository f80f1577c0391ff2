"""Fifty at once, each on a connection of its own: how many tasks come of it is exact in every mode."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from schema.database import make_engine, transaction
from schema.errors import DuplicateInstance
from schema.identity import SubtaskId, TaskId
from schema.kinds import KindInfo
from schema.limits import DEFAULT_LIMITS
from schema.transitions.registrations import register_kinds
from taskserver.dispatcher.upkeep import Upkeep
from taskserver.new_rows import Submitter
from taskserver.submission import Stored, submit, submit_batch, submit_document
from tests.eventually import eventually
from tests.factories import StoredTask, execute, many, one, together
from tests.invariants import assert_invariants

FIFTY = 50
BY = Submitter("tester", "0")
DOCUMENT = {"name": "n", "subtasks": [{"key": "a", "kind": "test.kind"}], "instanceId": 42}


@pytest.fixture(autouse=True)
def wide(engine: Engine) -> Iterator[Engine]:
    """Return an engine with a connection for each submitter."""
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
    wide = make_engine(engine.url.render_as_string(hide_password=False), name="tests", pool_size=FIFTY)
    yield wide
    wide.dispose()
    assert_invariants(engine)


def refused_or(work: Callable[[], Stored]) -> Stored | str:
    """Return what was stored, or the holder that a refusal names."""
    try:
        return work()
    except DuplicateInstance as error:
        return error.target or ""


def fifty(engine: Engine, modes: tuple[str, ...], *, key: str | None = None) -> list[Stored | str]:
    def work(number: int) -> Stored | str:
        document = {**DOCUMENT, "onDuplicate": modes[number % len(modes)]}
        return refused_or(lambda: submit_document(engine, document, BY, limits=DEFAULT_LIMITS, idempotency_key=key))

    return together(FIFTY, work)


def stored_tasks(engine: Engine) -> list[int]:
    return [row["id"] for row in many(engine, "SELECT id FROM tasks ORDER BY id")]


def holder(engine: Engine) -> int:
    return int(one(engine, "SELECT id FROM tasks WHERE duplicate_key IS NOT NULL")["id"])


def line(engine: Engine) -> list[int]:
    return [row["id"] for row in many(engine, "SELECT id FROM tasks WHERE queued_key IS NOT NULL ORDER BY id")]


def run_all(engine: Engine) -> list[int]:
    """Run what may start, as long as something may; return the tasks in the order in which they ran."""
    query = """
        SELECT p.id, s.id AS subtask FROM task_progress p JOIN subtasks s ON s.task_id = p.id
        WHERE p.open AND p.startable > 0 ORDER BY p.id
    """
    ran: list[int] = []
    while rows := many(engine, query):
        [row] = rows
        verdict: Any = "FAILED" if len(ran) % 3 == 2 else "SUCCESSFUL"
        StoredTask(engine, TaskId(row["id"]), {"a": SubtaskId(row["subtask"])}).run("a", verdict=verdict)
        ran.append(row["id"])
    return ran


def test_of_fifty_that_reject_duplicates_one_is_stored_and_the_others_are_told_which(wide: Engine) -> None:
    answers = fifty(wide, ("reject",))

    [task] = stored_tasks(wide)
    assert Counter(answers) == {Stored(TaskId(task), is_new=True): 1, str(task): FIFTY - 1}


def test_fifty_that_take_the_existing_one_all_have_the_same(wide: Engine) -> None:
    answers = fifty(wide, ("return",))

    [task] = stored_tasks(wide)
    assert Counter(answers) == {
        Stored(TaskId(task), is_new=True): 1,
        Stored(TaskId(task), is_new=False): FIFTY - 1,
    }


def test_fifty_that_queue_run_one_after_another_in_the_order_of_the_line(wide: Engine) -> None:
    answers = fifty(wide, ("queue",))

    first, waiting = holder(wide), line(wide)
    assert sorted(one.task for one in answers if isinstance(one, Stored)) == stored_tasks(wide)
    assert len(waiting) == FIFTY - 1
    assert run_all(wide) == [first, *waiting]


def test_fifty_with_one_idempotency_key_lead_to_one_task(wide: Engine) -> None:
    answers = fifty(wide, ("reject",), key="k")

    [task] = stored_tasks(wide)
    assert Counter(answers) == {
        Stored(TaskId(task), is_new=True): 1,
        Stored(TaskId(task), is_new=False): FIFTY - 1,
    }


def test_fifty_that_allow_duplicates_are_all_stored_and_may_all_run(wide: Engine) -> None:
    answers = fifty(wide, ("allow",))

    assert len(set(answers)) == len(stored_tasks(wide)) == FIFTY
    assert one(wide, "SELECT count(*) AS n FROM task_progress WHERE open")["n"] == FIFTY


def test_the_modes_agree_on_one_holder(wide: Engine) -> None:
    modes = ("reject", "return", "queue", "allow", "queue")
    answers = fifty(wide, modes)

    first, waiting = holder(wide), line(wide)
    by_mode = {mode: [answer for at, answer in enumerate(answers) if modes[at % 5] == mode] for mode in modes}
    held = Stored(TaskId(first), is_new=True)
    assert set(by_mode["reject"]) <= {str(first), held}
    assert set(by_mode["return"]) <= {Stored(TaskId(first), is_new=False), held}
    assert {one.task for one in by_mode["queue"] if isinstance(one, Stored)} - {first} == set(waiting)
    assert len(by_mode["queue"]) == 20
    execute(
        wide, "UPDATE task_progress SET open = false WHERE id IN (SELECT id FROM tasks WHERE on_duplicate = 'allow')"
    )
    assert run_all(wide) == [first, *waiting]


def test_fifty_on_raw_connections_are_as_exact(wide: Engine) -> None:
    conninfo = wide.url.set(drivername="postgresql").render_as_string(hide_password=False)

    def work(_: int) -> TaskId:
        with psycopg.connect(conninfo) as connection:
            return submit(connection, {**DOCUMENT, "onDuplicate": "return"})

    assert together(FIFTY, work) == stored_tasks(wide) * FIFTY


@pytest.mark.parametrize(("mode", "count"), [("reject", 5), ("return", 5), ("queue", 50)])
def test_batches_of_the_same_instances_in_any_order_do_not_get_stuck(wide: Engine, mode: str, count: int) -> None:
    def work(number: int) -> list[Stored] | None:
        places = range(5) if number % 2 else reversed(range(5))
        documents = [{**DOCUMENT, "instanceId": place, "onDuplicate": mode} for place in places]
        try:
            return submit_batch(wide, documents, BY, limits=DEFAULT_LIMITS)
        except DuplicateInstance:
            return None

    answers = together(10, work)

    assert len(stored_tasks(wide)) == count
    assert sum(answer is None for answer in answers) == (9 if mode == "reject" else 0)


def test_fifty_that_queue_while_the_holders_settle_all_run(wide: Engine) -> None:
    """Settlements and submissions cross each other: who is left behind is helped on by a look."""

    def work(number: int) -> Stored | str | list[int]:
        if number == 0:
            eventually(lambda: stored_tasks(wide))
            return run_all(wide)
        document = {**DOCUMENT, "onDuplicate": "queue"}
        return submit_document(wide, document, BY, limits=DEFAULT_LIMITS)

    together(FIFTY, work)
    upkeep = Upkeep(wide)
    run_all(wide)
    while line(wide):
        upkeep.look()
        assert run_all(wide)

    states = Counter(row["state"] for row in many(wide, "SELECT state FROM tasks"))
    assert set(states) <= {"SUCCESSFUL", "FAILED"}
    assert states.total() == FIFTY - 1
