"""Every verb in every course of a task and every state of a subtask: legal with one result, or refused with one error."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.errors import DuplicateInstance, NotFound, RollbackProhibited, WrongState
from schema.instances import duplicate_key
from schema.states import SubtaskState, TaskState
from schema.transitions import inserted
from taskserver.control import SUBTASK_VERBS, TASK_VERBS
from tests.factories import StoredTask, execute, make_task, one
from tests.invariants import assert_invariants
from tests.operators import COURSES, OPERATOR, audit, refused, use

LIVE = {"CREATED", "RUNNING", "SUSPENDED"}

# What a verb needs: of the task's state, and of its course.
TASK_NEEDS: dict[str, tuple[set[str], set[str]]] = {
    "retry": ({"FAILED"}, {"undoing"}),
    "rollback": ({"FAILED"}, set()),
    "cancel": (LIVE, {"stopping"}),
    "pause": ({"CREATED", "RUNNING"}, {"stopping"}),
    "resume": ({"SUSPENDED"}, set()),
    "abandon": ({"FAILED"}, set()),
}
# What it makes of a task in which something still runs, waits, or needs a handler to be undone.
TASK_AFTER = {
    "retry": "RUNNING",
    "rollback": "RUNNING",
    "cancel": "RUNNING",
    "pause": "SUSPENDED",
    "resume": "RUNNING",
    "abandon": "REVOKED",
}
SUBTASK_NEEDS: dict[str, tuple[str, set[str], set[str]]] = {
    "retry": ("FAILED", {"RUNNING", "SUSPENDED", "FAILED"}, {"stopping", "undoing"}),
    "skip": ("FAILED", {"RUNNING", "SUSPENDED", "FAILED"}, {"stopping"}),
    "cancel": ("RUNNING", set(TaskState), set()),
}
SUBTASK_AFTER = {"retry": "PENDING", "skip": "SUCCESSFUL", "cancel": "CANCELING"}


def task_may(verb: str, course: str) -> bool:
    _, state, flags = COURSES[course]
    states, hindrances = TASK_NEEDS[verb]
    return state in states and not flags & hindrances


def subtask_may(verb: str, course: str, subtask: str) -> bool:
    _, state, flags = COURSES[course]
    own, states, hindrances = SUBTASK_NEEDS[verb]
    return subtask == own and state in states and not flags & hindrances


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


@pytest.fixture
def build(engine: Engine) -> Callable[[str], StoredTask]:
    def built(course: str) -> StoredTask:
        make, state, flags = COURSES[course]
        task = make(engine)
        assert task.column("state") == state
        if state in LIVE:
            assert (task.progress().stopping is not None) == ("stopping" in flags)
            assert (task.progress().undoing is not None) == ("undoing" in flags)
        return task

    return built


def test_the_courses_cover_every_state_of_a_task_and_of_a_subtask(build: Callable[[str], StoredTask]) -> None:
    seen = {state for course in COURSES for state in build(course).states().values()}

    assert {state for _, state, _ in COURSES.values()} == set(TaskState)
    assert seen == set(SubtaskState)
    assert set(TASK_NEEDS) == set(TASK_VERBS)
    assert set(SUBTASK_NEEDS) == set(SUBTASK_VERBS)


@pytest.mark.parametrize("course", COURSES)
def test_a_verb_that_does_not_fit_the_course_of_the_task_is_refused_and_changes_nothing(
    build: Callable[[str], StoredTask], engine: Engine, course: str
) -> None:
    task = build(course)

    for verb in TASK_VERBS:
        if not task_may(verb, course):
            with refused(engine, WrongState, match=rf"^task {task.id} is .*{verb}") as caught:
                use(task, verb)
            assert (caught.value.code, caught.value.target) == (20003, str(task.id))


@pytest.mark.parametrize(
    ("course", "use_of", "words"),
    [
        ("stopping", ("cancel", None), "is being stopped already, cancel is not possible: wait until it has settled"),
        ("expiring", ("pause", None), "is being stopped, pause is not possible: wait until it has settled"),
        ("stopping", ("retry", "failing"), "is being stopped, retry is not possible: wait until it has settled"),
        ("stopping", ("skip", "failing"), "is being stopped, skip is not possible: wait until it has settled"),
        ("undo failed", ("retry", None), "is being rolled back, retry is not possible: roll it back again, or skip"),
    ],
)
def test_what_the_course_forbids_is_refused_with_what_to_do_instead(
    build: Callable[[str], StoredTask], engine: Engine, course: str, use_of: tuple[str, str | None], words: str
) -> None:
    task = build(course)
    verb, key = use_of

    with refused(engine, WrongState, match=f"^task {task.id} {words}"):
        use(task, verb, key)


@pytest.mark.parametrize(
    ("course", "verb"), [(course, verb) for course in COURSES for verb in TASK_VERBS if task_may(verb, course)]
)
def test_a_verb_that_fits_the_course_of_the_task_moves_it_and_is_recorded(
    build: Callable[[str], StoredTask], course: str, verb: str
) -> None:
    task = build(course)
    before, number = task.column("state"), task.progress().change_number

    use(task, verb)

    after = task.column("state")
    assert after == ("REVOKED" if verb == "cancel" and before == "CREATED" else TASK_AFTER[verb])
    assert task.progress().change_number > number
    row = audit(task)[-1]
    assert (row["verb"], row["subtask_id"], row["from_state"], row["to_state"]) == (verb, None, before, after)
    assert (row["principal"], row["reason"], row["trace_id"]) == ("operator", "because", "0123456789abcdef")


@pytest.mark.parametrize("course", COURSES)
def test_a_verb_that_does_not_fit_the_state_of_the_subtask_is_refused_and_changes_nothing(
    build: Callable[[str], StoredTask], engine: Engine, course: str
) -> None:
    task = build(course)

    for key, state in task.states().items():
        for verb in SUBTASK_VERBS:
            if not subtask_may(verb, course, state):
                with refused(engine, WrongState, match=verb) as caught:
                    use(task, verb, key)
                assert caught.value.target in {str(task.id), str(task.ids[key])}


@pytest.mark.parametrize("course", COURSES)
def test_a_verb_that_fits_the_state_of_the_subtask_moves_it_and_is_recorded(
    build: Callable[[str], StoredTask], course: str
) -> None:
    undoing = "undoing" in COURSES[course][2]
    cells = {
        (state, verb): key
        for key, state in build(course).states().items()
        for verb in SUBTASK_VERBS
        if subtask_may(verb, course, state)
    }

    for (_, verb), key in cells.items():
        task = build(course)
        before, counters = task.row(key)["state"], Counter(task.states().values())
        use(task, verb, key)

        after = "PENDING" if undoing and verb == "skip" else SUBTASK_AFTER[verb]
        if verb == "retry":  # what an allowed failure had let go on may have been released, and is taken back
            counters["PENDING"] += counters.pop("READY", 0)
        assert Counter(task.states().values()) == counters - Counter([before]) + Counter([after])
        row = audit(task)[-1]
        assert (row["verb"], row["subtask_id"], row["from_state"]) == (verb, task.ids[key], before)
        assert row["to_state"] == task.row(key)["state"] == after
        assert (row["principal"], row["reason"], row["trace_id"]) == ("operator", "because", "0123456789abcdef")


VERBS = [(verb, None) for verb in TASK_VERBS] + [(verb, "failing") for verb in SUBTASK_VERBS]


@pytest.mark.parametrize(("verb", "key"), VERBS)
def test_the_task_of_another_account_looks_like_one_that_is_not_there(
    build: Callable[[str], StoredTask], engine: Engine, verb: str, key: str | None
) -> None:
    task = build("failed")
    nowhere = replace(task, id=task.id + 1)

    with refused(engine, NotFound) as foreign:
        use(task, verb, key, order=replace(OPERATOR, account="7"))
    with refused(engine, NotFound) as missing:
        use(nowhere, verb, key)

    assert (foreign.value.code, foreign.value.target) == (20000, str(task.id))
    assert missing.value.message.replace(str(nowhere.id), str(task.id)) == foreign.value.message


@pytest.mark.parametrize("verb", SUBTASK_VERBS)
def test_a_subtask_of_another_task_is_not_there(build: Callable[[str], StoredTask], engine: Engine, verb: str) -> None:
    task, other = build("failed"), build("failed")

    with refused(engine, NotFound, match=f"task {task.id} has no subtask {other.ids['failing']}") as caught:
        use(replace(task, ids=other.ids), verb, "failing")

    assert (caught.value.code, caught.value.target) == (20000, str(other.ids["failing"]))


def test_a_rollback_is_refused_by_what_began_and_names_it(engine: Engine) -> None:
    options = {"a": {"prohibit_rollback": True}, "c": {"prohibit_rollback": True}}
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("b",)}, options)
    task.run("a")
    task.run("b", verdict="FAILED")

    with refused(engine, RollbackProhibited, match="'a'") as caught:
        use(task, "rollback")

    assert (caught.value.code, caught.value.target) == (20004, "a")


def test_what_has_not_begun_does_not_prohibit_a_rollback(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"b": {"prohibit_rollback": True}})
    task.begin("a")
    task.set("b", "isolated = true")
    task.record(task.held("a"), "FAILED")

    use(task, "rollback")

    assert task.column("state") == "ROLLED_BACK"


def test_a_rollback_is_refused_by_the_task_and_names_it(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, prohibit_rollback=True)
    task.run("a", verdict="FAILED")

    with refused(engine, RollbackProhibited, match="prohibitRollback") as caught:
        use(task, "rollback")

    assert caught.value.target == str(task.id)


REOPENING: list[tuple[str, str | None]] = [("retry", None), ("retry", "a"), ("skip", "a"), ("rollback", None)]


def instance(engine: Engine, on_duplicate: str = "reject") -> StoredTask:
    key = duplicate_key(account="0", task_type="inline", instance_id=42, extra="", on_duplicate=on_duplicate)
    columns = {"instance_id": 42, "on_duplicate": on_duplicate, "duplicate_key": key}
    return make_task(engine, {"a": (), "b": ("a",)}, {"a": {"has_rollback": True}}, **columns)


@pytest.mark.parametrize(("verb", "key"), REOPENING)
def test_what_reopens_a_task_takes_its_instance_again(engine: Engine, verb: str, key: str | None) -> None:
    task = instance(engine)
    held = task.column("duplicate_key")
    task.run("a", verdict="FAILED")
    assert task.column("duplicate_key") is None

    use(task, verb, key)

    assert task.column("duplicate_key") == held
    with pytest.raises(DuplicateInstance):
        instance(engine)


@pytest.mark.parametrize(("verb", "key"), REOPENING)
def test_what_reopens_a_task_is_refused_while_another_holds_the_instance(
    engine: Engine, verb: str, key: str | None
) -> None:
    task = instance(engine)
    task.run("a", verdict="FAILED")
    holder = instance(engine)

    with refused(engine, DuplicateInstance, match=f"task {holder.id} holds") as caught:
        use(task, verb, key)

    assert (caught.value.status, caught.value.code, caught.value.target) == (409, 20005, str(holder.id))


@pytest.mark.parametrize(("verb", "key"), REOPENING)
def test_a_task_that_allows_duplicates_holds_nothing_when_it_is_reopened(
    engine: Engine, verb: str, key: str | None
) -> None:
    task = instance(engine, "allow")
    task.run("a", verdict="FAILED")
    instance(engine)

    use(task, verb, key)

    assert task.column("duplicate_key") is None
    assert task.column("state") == "RUNNING"


def test_a_task_without_subtasks_is_refused_what_it_could_never_end_from(engine: Engine) -> None:
    execute(engine, "INSERT INTO tasks (template_id) VALUES (5)")
    task = StoredTask(engine, one(engine, "SELECT id FROM tasks")["id"], {})

    with refused(engine, WrongState, match="has no subtasks yet"):
        use(task, "pause")
    with transaction(engine) as connection:
        inserted.refuse_inserted(connection, task.id, kind="no_definition", message="none")
    with refused(engine, WrongState, match="has no subtasks"):
        use(task, "retry")
