"""Two at once: one wins, the other is told so, and every promise holds whichever it was."""

import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.errors import DuplicateInstance, WrongState
from schema.instances import duplicate_key
from schema.transitions import cancellations
from schema.transitions.creation import create_task
from tests.eventually import eventually
from tests.factories import StoredTask, execute, make_task, many, new_task, together
from tests.invariants import assert_invariants
from tests.operators import audit, use, use_within

ROUNDS = 8
UNDOABLE = {"has_rollback": True}


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def failed(engine: Engine) -> StoredTask:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": UNDOABLE})
    task.run("a", verdict="FAILED")
    return task


def running(engine: Engine) -> StoredTask:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": UNDOABLE})
    task.begin("a")
    return task


def paused(engine: Engine) -> StoredTask:
    task = make_task(engine, {"a": ()})
    use(task, "pause")
    return task


SAME: list[tuple[Callable[[Engine], StoredTask], str, str | None]] = [
    (failed, "retry", None),
    (failed, "rollback", None),
    (failed, "abandon", None),
    (failed, "retry", "a"),
    (failed, "skip", "a"),
    (running, "cancel", None),
    (running, "pause", None),
    (running, "cancel", "a"),
    (paused, "resume", None),
]


def attempt(task: StoredTask, verb: str, key: str | None = None) -> str:
    """Use the verb; tell whether it was taken."""
    try:
        use(task, verb, key)
    except WrongState:
        return "refused"
    return verb


@pytest.mark.parametrize(("make", "verb", "key"), SAME)
def test_of_operators_with_the_same_verb_one_wins(
    engine: Engine, make: Callable[[Engine], StoredTask], verb: str, key: str | None
) -> None:
    task = make(engine)
    before = len(audit(task))

    outcomes = together(4, lambda _: attempt(task, verb, key))

    assert sorted(outcomes) == sorted([verb, "refused", "refused", "refused"])
    assert len(audit(task)) == before + 1


@pytest.mark.parametrize("pair", [("retry", "rollback"), ("retry", "abandon"), ("rollback", "abandon")])
def test_of_two_verbs_that_exclude_each_other_one_wins(engine: Engine, pair: tuple[str, str]) -> None:
    for _ in range(ROUNDS):
        task = failed(engine)

        outcomes = together(2, lambda number, task=task: attempt(task, pair[number]))

        assert sorted(outcomes) in (sorted([pair[0], "refused"]), sorted([pair[1], "refused"]))
        assert [row["verb"] for row in audit(task)] == [one for one in outcomes if one != "refused"]


def test_a_verb_decides_by_what_the_one_before_it_left(engine: Engine) -> None:
    task = failed(engine)
    outcomes: list[str] = []
    second = threading.Thread(target=lambda: outcomes.append(attempt(task, "rollback")))

    with transaction(engine) as connection:
        use_within(connection, task, "retry")
        second.start()
        _wait_for_a_lock(engine)
    second.join(20)

    assert outcomes == ["refused"]
    assert task.row("a")["operation"] == "RETRY"


@pytest.mark.parametrize("verb", ["cancel", "pause"])
@pytest.mark.parametrize("verdict", ["SUCCESSFUL", "FAILED", "RETRY"])
def test_a_verb_at_the_moment_of_the_end_leaves_one_story(engine: Engine, verb: str, verdict: str) -> None:
    for last in (True, False):
        for _ in range(ROUNDS // 2):
            task = make_task(engine, {"a": ()} if last else {"a": (), "b": ("a",)}, {"a": {"max_attempts": 2}})
            [a] = task.begin("a")

            def act(number: int, task: StoredTask = task, a: object = a) -> object:
                return task.record([a], verdict) if number else attempt(task, verb)  # type: ignore[arg-type, list-item]

            outcome, _ = together(2, act)

            assert (
                task.column("state")
                in {
                    "cancel": {"REVOKED", "SUCCESSFUL", "FAILED"},
                    "pause": {"SUSPENDED", "SUCCESSFUL", "FAILED"},
                    "refused": {"SUCCESSFUL", "FAILED"},
                }[str(outcome)]
            )
            assert_invariants(engine)


def test_a_subtask_cancelled_at_the_moment_of_its_end_has_ended_or_was_cancelled(engine: Engine) -> None:
    for _ in range(ROUNDS):
        task = make_task(engine, {"a": (), "b": ()})
        [a] = task.begin("a")

        def act(number: int, task: StoredTask = task, a: object = a) -> object:
            return task.record([a]) if number else attempt(task, "cancel", "a")  # type: ignore[list-item]

        outcome, _ = together(2, act)

        row = task.row("a")
        expected = ("FAILED", "CANCEL") if outcome == "cancel" else ("SUCCESSFUL", "EXECUTE")
        assert (row["state"], row["operation"]) == expected


@pytest.mark.parametrize("verb", ["cancel", "pause"])
def test_nothing_is_claimed_after_a_pause_or_a_cancel(engine: Engine, verb: str) -> None:
    for _ in range(ROUNDS):
        task = make_task(engine, {f"n{n}": () for n in range(20)})
        task.release(*task.ids)

        def act(number: int, task: StoredTask = task) -> int:
            if number == 0:
                use(task, verb)
                return 0
            return len(task.claim(*list(task.ids)[number::4], process=number))

        claimed = sum(together(4, act))

        assert task.progress().begun == claimed
        assert task.claim(*task.ids) == []
        assert task.progress().ready == 0


def test_a_deadline_and_a_cancel_agree_on_who_came_first(engine: Engine) -> None:
    for _ in range(ROUNDS):
        task = running(engine)
        execute(engine, "UPDATE tasks SET deadline_at = now() WHERE id = :id", id=task.id)

        def act(number: int, task: StoredTask = task) -> None:
            if number:
                attempt(task, "cancel")
            else:
                with transaction(engine) as connection:
                    cancellations.expire(connection, task.id)

        together(2, act)
        why = task.progress().stopping
        task.record(task.held("a"))

        assert task.column("state") == {"CANCEL": "REVOKED", "DEADLINE": "FAILED"}[str(why)]


def test_a_retry_and_a_submission_agree_on_who_has_the_instance(engine: Engine) -> None:
    key = duplicate_key(account="0", task_type="inline", instance_id=42, extra="", on_duplicate="reject")
    columns = {"instance_id": 42, "duplicate_key": key}
    for _ in range(ROUNDS):
        task = make_task(engine, {"a": ()}, **columns)
        task.run("a", verdict="FAILED")

        def act(number: int, task: StoredTask = task) -> str:
            try:
                if number:
                    use(task, "retry")
                else:
                    with transaction(engine) as connection:
                        create_task(connection, new_task({"a": ()}, **columns))
            except DuplicateInstance as error:
                return error.target or ""
            return "taken"

        outcomes = together(2, act)

        [holder] = many(engine, "SELECT id FROM tasks WHERE duplicate_key IS NOT NULL")
        assert sorted(outcomes) == sorted(["taken", str(holder["id"])])
        use(StoredTask(engine, holder["id"], {}), "cancel")


def test_the_instance_is_taken_between_the_look_and_the_move(engine: Engine) -> None:
    key = duplicate_key(account="0", task_type="inline", instance_id=42, extra="", on_duplicate="reject")
    columns = {"instance_id": 42, "duplicate_key": key}
    task = make_task(engine, {"a": ()}, **columns)
    task.run("a", verdict="FAILED")
    with transaction(engine) as connection:
        holder = create_task(connection, new_task({"a": ()}, **columns))  # uncommitted: the look does not see it
        errors: list[DuplicateInstance] = []

        def retry() -> None:
            try:
                use(task, "retry")
            except DuplicateInstance as error:
                errors.append(error)

        thread = threading.Thread(target=retry)
        thread.start()
        _wait_for_a_lock(engine)
    thread.join(20)

    assert [error.target for error in errors] == [str(holder)]
    assert task.column("state") == "FAILED"


def _wait_for_a_lock(engine: Engine) -> None:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    eventually(lambda: many(engine, query))
