"""Verbs on large tasks move a bounded portion in their own transaction; a dispatcher turns the rest, each subtask once."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.errors import WrongState
from schema.transitions import continuations, turning
from taskserver.dispatcher.upkeep import Upkeep
from taskserver.embedded.stack import EmbeddedStack
from tests.clinic import opened_clinic
from tests.factories import StoredTask, execute, make_task, many, one, together
from tests.invariants import assert_invariants, violations
from tests.operators import audit, expire, refused, use

PORTION = 3
MOST_EDGES = 4
UNDOABLE = {"has_rollback": True}
COMPARED = "state, operation, gate, pending_upstreams, rollback_downstreams, generation, failures, starts"


@pytest.fixture(autouse=True)
def _small_portions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(turning, "MOST_SUBTASKS", PORTION)
    monkeypatch.setattr(turning, "MOST_EDGES", MOST_EDGES)
    yield
    assert_invariants(engine)


def wide_failed(engine: Engine, count: int = 10, **columns: Any) -> StoredTask:
    """Return a task of subtasks without edges, all of them successful but the last."""
    keys = [f"n{number}" for number in range(count)]
    task = make_task(engine, dict.fromkeys(keys, ()), dict.fromkeys(keys, UNDOABLE), **columns)
    task.run(*keys[:-1])
    task.run(keys[-1], verdict="FAILED")
    assert task.column("state") == "FAILED"
    return task


def failed_as_they_might(engine: Engine, **columns: Any) -> StoredTask:
    """Return a FAILED task of which all have failed; what follows the allowed failures has failed too."""
    keys = [f"n{number}" for number in range(8)]
    graph: dict[str, tuple[str, ...]] = dict.fromkeys(keys[:4], ())
    graph |= {key: (keys[number], keys[(number + 1) % 4]) for number, key in enumerate(keys[4:])}
    task = make_task(engine, graph, {key: {"allow_failure": key != "n7"} for key in keys}, **columns)
    task.run(*keys[:4], verdict="FAILED")
    task.run(*keys[4:], verdict="FAILED")
    assert task.column("state") == "FAILED"
    return task


def go_on(task: StoredTask) -> bool:
    with transaction(task.engine) as connection:
        return continuations.go_on(connection, task.id)


def rows(task: StoredTask) -> Mapping[str, Any]:
    found = many(
        task.engine,
        f"SELECT d.key, {COMPARED} FROM subtasks s JOIN subtask_specs d USING (id) WHERE d.task_id = :task",
        task=task.id,
    )
    return {row["key"]: dict(row) for row in found}


def undone_all(task: StoredTask) -> bool:
    """Run the steps of a rollback that can be run until none is left; tell whether the task is rolled back."""
    while steps := task.frontier(only_named=True):
        task.run(steps[0])
    return bool(task.column("state") == "ROLLED_BACK")


@pytest.mark.parametrize("verb", ["rollback", "retry"])
def test_a_verb_turns_a_bounded_number_of_subtasks_however_large_the_task_is(engine: Engine, verb: str) -> None:
    task = wide_failed(engine, 40)
    if verb == "retry":
        execute(engine, "UPDATE subtasks SET state = 'FAILED'")
        execute(engine, "UPDATE subtask_attempts SET outcome = 'FAILED', error_type = 'failed'")
        execute(engine, "UPDATE subtasks SET failures = 1")
        execute(engine, "UPDATE task_progress SET failed = 40, successful = 0")
        execute(engine, "DELETE FROM subtask_results")

    use(task, verb)

    turned = [key for key, row in rows(task).items() if row["operation"] == verb.upper()]
    assert turned == ["n37", "n38", "n39"]
    assert (task.column("state"), task.column("operation")) == ("RUNNING", verb.upper())
    assert [row["verb"] for row in audit(task)] == [verb]
    assert violations(engine) == []
    portions = 1
    while go_on(task):
        assert violations(engine) == []
        portions += 1
    assert portions == 40 // PORTION
    assert {row["operation"] for row in rows(task).values()} == {verb.upper()}
    assert {row["generation"] for row in rows(task).values()} == {1}


def test_nothing_starts_before_all_is_turned(engine: Engine) -> None:
    task = wide_failed(engine)
    use(task, "rollback")

    while True:
        assert task.progress().startable > 0
        assert not task.progress().may_start
        if not go_on(task):
            break

    assert task.progress().may_start
    assert len(task.frontier(only_named=True)) == 10


@pytest.mark.parametrize("seed", range(8))
def test_in_portions_a_rollback_turns_as_it_does_at_once(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    keys = [f"n{number}" for number in range(14)]
    graph = {key: [up for up in keys[max(0, n - 5) : n] if chance.random() < 0.4] for n, key in enumerate(keys)}
    options = {key: {"has_rollback": chance.random() < 0.5} for key in keys}
    tasks = [make_task(engine, graph, options) for _ in range(2)]
    for task in tasks:
        for key in keys[:12]:
            task.run(key, verdict="FAILED" if key == keys[11] else "SUCCESSFUL")
    at_once, portioned = tasks

    use(portioned, "rollback")
    while go_on(portioned):
        assert violations(engine) == []
    monkeypatch.setattr(turning, "MOST_SUBTASKS", 1_000)
    monkeypatch.setattr(turning, "MOST_EDGES", 1_000)
    use(at_once, "rollback")

    assert at_once.progress().turning is None
    assert rows(portioned) == rows(at_once)
    assert portioned.progress().undoing == at_once.progress().undoing
    assert undone_all(portioned)


def test_what_follows_is_undone_first_whatever_the_portions(engine: Engine) -> None:
    keys = [f"n{number}" for number in range(8)]
    graph = {key: (keys[number - 1],) if number else () for number, key in enumerate(keys)}
    task = make_task(engine, graph, dict.fromkeys(keys, UNDOABLE))
    for key in keys:
        task.run(key, verdict="FAILED" if key == keys[-1] else "SUCCESSFUL")

    use(task, "rollback")
    while go_on(task):
        assert task.frontier(only_named=True)[0] == keys[-1]

    order = []
    while steps := task.frontier(only_named=True):
        order += steps
        task.run(*steps)
    assert order == keys[::-1]


def test_a_chain_without_handlers_is_rolled_back_by_its_last_portion(engine: Engine) -> None:
    keys = [f"n{number}" for number in range(8)]
    task = make_task(engine, {key: (keys[number - 1],) if number else () for number, key in enumerate(keys)})
    for key in keys:
        task.run(key, verdict="FAILED" if key == keys[-1] else "SUCCESSFUL")

    use(task, "rollback")
    assert task.column("state") == "RUNNING"
    while go_on(task):
        assert violations(engine) == []

    assert task.column("state") == "ROLLED_BACK"


def test_a_portion_that_was_not_committed_is_done_again(engine: Engine) -> None:
    task = wide_failed(engine)
    use(task, "rollback")
    before = rows(task)

    with engine.connect() as connection:
        assert continuations.go_on(connection, task.id)
        connection.rollback()
    assert rows(task) == before
    while go_on(task):
        assert violations(engine) == []

    assert {row["generation"] for row in rows(task).values()} == {1}
    assert undone_all(task)


def test_two_dispatchers_turn_each_subtask_once(engine: Engine) -> None:
    tasks = [wide_failed(engine, 30) for _ in range(3)]
    for task in tasks:
        use(task, "rollback")

    together(2, lambda _: [Upkeep(engine).turn() for _ in range(20)])
    upkeep = Upkeep(engine)
    while upkeep.turn():
        assert violations(engine) == []

    for task in tasks:
        assert task.progress().turning is None
        assert {row["generation"] for row in rows(task).values()} == {1}
        assert task.progress().undoing == 30
    assert many(engine, "SELECT * FROM task_progress WHERE turning IS NOT NULL") == []


def test_a_rollback_that_failed_in_many_steps_goes_on_in_portions(engine: Engine) -> None:
    task = wide_failed(engine)
    use(task, "rollback")
    while go_on(task):
        pass
    task.run(*task.ids, verdict="FAILED")
    assert (task.column("state"), task.progress().failed) == ("FAILED", 10)

    use(task, "rollback")
    assert list(task.states().values()).count("PENDING") == PORTION
    while go_on(task):
        assert violations(engine) == []

    assert {row["generation"] for row in rows(task).values()} == {2}
    assert undone_all(task)


def test_what_follows_allowed_failures_waits_for_them_whatever_the_portions(engine: Engine) -> None:
    task = failed_as_they_might(engine)

    use(task, "retry")
    while go_on(task):
        assert violations(engine) == []

    assert violations(engine) == []
    assert {row["operation"] for row in rows(task).values()} == {"RETRY"}
    assert [row["pending_upstreams"] for row in rows(task).values()] == [0] * 4 + [2] * 4
    task.run("n0", "n1", "n2", "n3")
    task.run("n4", "n5", "n6", "n7")
    assert task.column("state") == "SUCCESSFUL"


def test_meanwhile_a_verb_that_needs_a_failed_task_is_refused(engine: Engine) -> None:
    task = wide_failed(engine)
    use(task, "rollback")
    execute(engine, "UPDATE subtasks SET state = 'FAILED', failures = 1 WHERE id = :id", id=task.ids["n0"])
    execute(engine, "UPDATE subtask_attempts SET outcome = 'FAILED' WHERE subtask_id = :id", id=task.ids["n0"])
    execute(engine, "UPDATE task_progress SET failed = 1, undoing = undoing + 1, successful = successful - 1")

    for verb in ("rollback", "retry", "abandon"):
        with refused(engine, WrongState):
            use(task, verb)
    with refused(engine, WrongState, match="wait a moment"):
        use(task, "skip", "n0")
    with refused(engine, WrongState, match="rolled back"):
        use(task, "retry", "n0")


def test_a_task_paused_meanwhile_is_turned_and_goes_on_when_it_is_resumed(engine: Engine) -> None:
    task = wide_failed(engine)
    use(task, "rollback")

    use(task, "pause")
    while go_on(task):
        assert violations(engine) == []
    assert (task.column("state"), task.progress().may_start) == ("SUSPENDED", False)
    use(task, "resume")

    assert task.progress().may_start
    assert undone_all(task)


def test_a_task_resumed_meanwhile_starts_nothing_yet(engine: Engine) -> None:
    task = wide_failed(engine)
    use(task, "rollback")

    use(task, "pause")
    use(task, "resume")

    assert not task.progress().may_start
    while go_on(task):
        assert violations(engine) == []
    assert undone_all(task)


def test_a_task_cancelled_meanwhile_is_revoked_at_once_and_turned_no_further(engine: Engine) -> None:
    task = wide_failed(engine)
    use(task, "rollback")

    use(task, "cancel")

    before = rows(task)
    assert (task.column("state"), task.progress().turning) == ("REVOKED", None)
    assert violations(engine) == []
    assert go_on(task) is False
    assert Upkeep(engine).turn() is False
    assert rows(task) == before
    assert list(task.states().values()).count("SUCCESSFUL") == 10 - PORTION


def test_a_retry_cut_by_the_deadline_can_be_made_again(engine: Engine) -> None:
    task = failed_as_they_might(engine)
    use(task, "retry")

    expire(task)
    assert (task.column("state"), task.progress().turning) == ("FAILED", None)
    use(task, "retry")
    while go_on(task):
        assert violations(engine) == []

    assert (task.column("state"), task.progress().failed) == ("RUNNING", 0)
    task.run("n0", "n1", "n2", "n3")
    task.run("n4", "n5", "n6", "n7")
    assert task.column("state") == "SUCCESSFUL"


def test_a_subtask_skipped_or_retried_meanwhile_is_not_turned_again(engine: Engine) -> None:
    task = failed_as_they_might(engine)
    use(task, "retry")
    assert task.states()["n0"] == task.states()["n1"] == "FAILED"

    use(task, "skip", "n0")
    use(task, "retry", "n1")
    while go_on(task):
        assert violations(engine) == []

    found = rows(task)
    assert (found["n0"]["state"], found["n0"]["operation"]) == ("SUCCESSFUL", "SKIP")
    assert {row["generation"] for key, row in found.items() if key != "n0"} == {1}


def test_what_one_step_lets_pass_over_is_undone_in_portions(engine: Engine) -> None:
    keys = [f"n{number}" for number in range(10)]
    task = make_task(engine, {**dict.fromkeys(keys, ()), "last": tuple(keys)}, {"last": UNDOABLE})
    task.run(*keys)
    task.run("last", verdict="FAILED")
    use(task, "rollback")
    while go_on(task):
        assert violations(engine) == []
    assert task.progress().undoing == 11
    task.run("last", verdict="FAILED")

    use(task, "skip", "last")

    assert (task.progress().turning, task.progress().undoing) == (0, 10 - PORTION)
    assert task.column("state") == "RUNNING"
    while go_on(task):
        assert violations(engine) == []
    assert task.column("state") == "ROLLED_BACK"


def test_a_large_task_holds_up_no_other(engine: Engine) -> None:
    large, small = wide_failed(engine, 30), wide_failed(engine, 4)
    for task in (large, small):
        use(task, "rollback")

    Upkeep(engine).turn()

    assert small.progress().turning is None


def test_a_settled_task_is_not_looked_at_any_more(engine: Engine) -> None:
    task = wide_failed(engine)
    use(task, "rollback")
    use(task, "cancel")

    with transaction(engine) as connection:
        assert turning.unfinished_tasks(connection, limit=10) == []
    assert one(engine, "SELECT state FROM sync_history")["state"] == "REVOKED"


def test_the_doctor_names_a_rollback_that_no_server_goes_on_with(engine: Engine, stack: EmbeddedStack) -> None:
    task = wide_failed(engine)
    use(task, "rollback")

    with opened_clinic(engine, stack) as clinic:
        clinic.worker()
        found = clinic.only(task)

    assert found.type == "dispatcher"
    assert "its rollback was not gone on with" in found.message
