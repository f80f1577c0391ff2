"""Rollback: what began is undone in reverse order, once, by its handler where it has one."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.errors import DuplicateInstance, WrongState
from schema.instances import duplicate_key
from schema.transitions import continuations, progress, releases
from schema.transitions.rescues import Seen
from tests.factories import StoredTask, make_task, many, one
from tests.invariants import assert_invariants, violations
from tests.operators import audit, heard, refused, use

DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("d",)}
UNDOABLE = {"has_rollback": True}


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def failed_at(
    engine: Engine, key: str, graph: Mapping[str, Sequence[str]] = DIAMOND, options: Any = None, **columns: Any
) -> StoredTask:
    """Return a task that ran in order up to the key, which failed."""
    task = make_task(engine, graph, dict.fromkeys(graph, UNDOABLE) if options is None else options, **columns)
    for one_key in graph:
        task.run(one_key, verdict="FAILED" if one_key == key else "SUCCESSFUL", result=None)
        if one_key == key:
            return task
    raise AssertionError


def turned(task: StoredTask) -> bool:
    """Go on with a verb as a dispatcher does; tell whether something of it is left."""
    with transaction(task.engine) as connection:
        return continuations.go_on(connection, task.id)


def next_steps(task: StoredTask) -> list[str]:
    return task.frontier(only_named=task.progress().only_named)


def test_a_rollback_undoes_in_reverse_order_with_branches_in_parallel(engine: Engine) -> None:
    task = failed_at(engine, "d")

    use(task, "rollback")

    order = []
    while steps := next_steps(task):
        order.append(steps)
        for key in steps:
            task.run(key)
    assert order == [["d"], ["b", "c"], ["a"]]
    assert (task.column("state"), task.column("operation"), task.column("status")) == ("ROLLED_BACK", "ROLLBACK", 3)
    assert set(task.states().values()) == {"PENDING"}
    assert (task.row("a")["operation"], task.row("e")["operation"]) == ("ROLLBACK", "EXECUTE")
    assert one(engine, "SELECT state FROM sync_history")["state"] == "ROLLED_BACK"


def test_a_step_of_a_rollback_is_an_attempt_of_its_own(engine: Engine) -> None:
    task = failed_at(engine, "a")
    before = task.row("a")

    use(task, "rollback")
    [step] = task.begin("a")
    task.record([step])

    assert (step.operation, step.attempt, step.failures) == ("ROLLBACK", 2, 0)
    assert step.generation > before["generation"]
    assert [(row["operation"], row["outcome"]) for row in task.attempts("a")] == [
        ("EXECUTE", "FAILED"),
        ("ROLLBACK", "SUCCESSFUL"),
    ]


def test_what_was_returned_is_there_for_the_rollback(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": UNDOABLE})
    task.run("a", result={"path": "/data/1"})
    task.run("b", verdict="FAILED")

    use(task, "rollback")

    assert one(engine, "SELECT result FROM subtask_results")["result"] == {"path": "/data/1"}
    assert next_steps(task) == ["a"]


def test_what_has_no_handler_is_undone_without_an_attempt(engine: Engine) -> None:
    task = failed_at(engine, "d", options={"b": UNDOABLE})

    use(task, "rollback")

    assert next_steps(task) == ["b"]
    assert (task.progress().undoing, task.column("state")) == (2, "RUNNING")
    task.run("b")
    assert task.column("state") == "ROLLED_BACK"
    assert [len(task.attempts(key)) for key in "abcde"] == [1, 2, 1, 1, 0]


def test_a_task_without_rollback_handlers_is_rolled_back_in_the_same_transaction(engine: Engine) -> None:
    task = failed_at(engine, "d", options={})

    with heard(engine, progress.SETTLED_CHANNEL) as payloads:
        use(task, "rollback")

    assert task.column("state") == "ROLLED_BACK"
    assert payloads == [str(task.id)]
    assert audit(task)[-1]["to_state"] == "ROLLED_BACK"


def test_what_never_began_is_not_touched(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",), "c": (), "d": ("c",)}, dict.fromkeys("abcd", UNDOABLE))
    carrier = task.release("c")["c"]
    task.claim("c")
    task.hand_back("c", carrier=carrier)
    before = {key: task.row(key) for key in "bcd"}
    task.run("a", verdict="FAILED")

    use(task, "rollback")
    task.run("a")

    assert {key: task.row(key) for key in "bcd"} == before
    assert task.column("state") == "ROLLED_BACK"


def test_what_waited_for_another_attempt_has_begun_and_is_undone(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ()}, {"a": {**UNDOABLE, "max_attempts": 2}})
    [a, b] = [task.begin(key)[0] for key in "ab"]
    task.record([a], "RETRY", delay_seconds=60.0)
    task.record([b], "FAILED")

    use(task, "rollback")

    assert next_steps(task) == ["a"]


def test_a_skipped_subtask_that_was_attempted_is_undone(engine: Engine) -> None:
    task = failed_at(engine, "a", {"a": (), "b": ("a",)})
    use(task, "skip", "a")
    task.run("b", verdict="FAILED")

    use(task, "rollback")

    assert next_steps(task) == ["b"]
    task.run("b")
    assert next_steps(task) == ["a"]


def test_a_failed_step_fails_the_task_once_the_other_branches_have_ended(engine: Engine) -> None:
    task = failed_at(engine, "d")
    use(task, "rollback")
    task.run("d")

    task.run("b", verdict="FAILED", error_message="busy")
    assert task.column("state") == "RUNNING"
    assert next_steps(task) == ["c"]
    task.run("c")

    assert (task.column("state"), task.column("operation")) == ("FAILED", "ROLLBACK")
    assert task.column("error") == {"type": "failed", "message": "busy", "subtask": "b"}
    assert task.states() == {"a": "PENDING", "b": "FAILED", "c": "PENDING", "d": "PENDING", "e": "PENDING"}


def test_a_rollback_that_failed_goes_on_where_it_failed(engine: Engine) -> None:
    task = failed_at(engine, "b", {"a": (), "b": ("a",)})
    use(task, "rollback")
    task.run("b", verdict="FAILED")
    with refused(engine, WrongState, match="being rolled back"):
        use(task, "retry")
    with refused(engine, WrongState, match="being rolled back"):
        use(task, "retry", "b")

    use(task, "rollback")
    assert (task.column("state"), task.column("error")) == ("RUNNING", None)
    assert next_steps(task) == ["b"]
    for key in "ba":
        task.run(key)

    assert task.column("state") == "ROLLED_BACK"
    assert [row["outcome"] for row in task.attempts("b")] == ["FAILED", "FAILED", "SUCCESSFUL"]


@pytest.mark.parametrize("handlers", ["ab", "b"])
def test_a_failed_step_can_be_skipped(engine: Engine, handlers: str) -> None:
    task = failed_at(engine, "b", {"a": (), "b": ("a",)}, dict.fromkeys(handlers, UNDOABLE))
    use(task, "rollback")
    task.run("b", verdict="FAILED")

    use(task, "skip", "b")

    assert (task.row("b")["state"], task.row("b")["operation"]) == ("PENDING", "SKIP")
    if "a" in handlers:
        assert (task.column("state"), task.column("operation")) == ("RUNNING", "ROLLBACK")
        assert next_steps(task) == ["a"]
        task.run("a")
    assert task.column("state") == "ROLLED_BACK"


def _two_failed_steps(engine: Engine, **columns: Any) -> StoredTask:
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("a",)}, dict.fromkeys("abc", UNDOABLE), **columns)
    task.run("a")
    task.begin("b", "c")
    [b], [c] = task.held("b"), task.held("c")
    task.record([b])
    task.record([c], "FAILED")
    use(task, "rollback")
    for key in ("b", "c"):
        task.release(key)
    for key in ("b", "c"):
        task.record(task.claim(key), "FAILED")
    assert (task.column("state"), task.progress().failed) == ("FAILED", 2)
    return task


def test_a_skip_of_one_of_two_failed_steps_leaves_the_task_as_it_ended(engine: Engine) -> None:
    task = _two_failed_steps(engine)
    ended, number = task.column("finalized_at"), task.progress().change_number

    use(task, "skip", "b")

    assert (task.column("state"), task.column("finalized_at")) == ("FAILED", ended)
    assert (task.progress().change_number, task.progress().undoing) == (number + 1, 2)
    use(task, "skip", "c")
    assert (task.column("state"), next_steps(task)) == ("RUNNING", ["a"])


def test_a_skip_that_leaves_the_task_failed_needs_no_instance(engine: Engine) -> None:
    instance = {
        "duplicate_key": duplicate_key(account="0", task_type="inline", instance_id=1, extra="", on_duplicate="reject"),
        "instance_id": 1,
        "on_duplicate": "reject",
    }
    task = _two_failed_steps(engine, **instance)
    holder = make_task(engine, {"a": ()}, **instance)

    use(task, "skip", "b")
    with refused(engine, DuplicateInstance, match=f"task {holder.id} holds"):
        use(task, "skip", "c")

    assert (task.column("state"), holder.column("state")) == ("FAILED", "CREATED")


def test_a_failed_step_can_be_skipped_while_other_branches_are_undone(engine: Engine) -> None:
    task = failed_at(engine, "d")
    use(task, "rollback")
    task.run("d")
    [c] = task.begin("c")
    task.run("b", verdict="FAILED")

    use(task, "skip", "b")
    assert task.column("state") == "RUNNING"
    task.record([c])

    assert next_steps(task) == ["a"]


def test_a_cancelled_step_fails_the_rollback_which_can_go_on_and_never_forward(engine: Engine) -> None:
    task = failed_at(engine, "b", {"a": (), "b": ("a",)})
    use(task, "rollback")
    [b] = task.begin("b")
    use(task, "cancel", "b")
    task.record([b])
    assert (task.column("state"), task.column("operation")) == ("FAILED", "ROLLBACK")
    assert task.row("b")["operation"] == "CANCEL"
    with refused(engine, WrongState):
        use(task, "retry", "b")

    use(task, "rollback")
    [b] = task.begin("b")

    assert b.operation == "ROLLBACK"
    task.record([b])
    task.run("a")
    assert task.column("state") == "ROLLED_BACK"


def test_a_failed_step_of_a_subtask_that_may_fail_fails_the_rollback(engine: Engine) -> None:
    task = failed_at(engine, "b", {"a": (), "b": ("a",)}, {"a": {**UNDOABLE, "allow_failure": True}, "b": UNDOABLE})
    use(task, "rollback")
    task.run("b")

    task.run("a", verdict="FAILED", error_message="busy")

    assert (task.column("state"), task.column("error")["message"]) == ("FAILED", "busy")
    assert_invariants(engine)
    use(task, "rollback")
    task.run("a")
    assert task.column("state") == "ROLLED_BACK"


def test_steps_are_attempted_again_as_often_as_their_subtask_may(engine: Engine) -> None:
    options = {"a": {**UNDOABLE, "max_attempts": 2}}
    task = make_task(engine, {"a": ()}, options)
    task.run("a", verdict="RETRY")
    task.run("a", verdict="FAILED")
    use(task, "rollback")

    [first] = task.begin("a")
    task.record([first], "RETRY", delay_seconds=60.0)
    assert (task.column("state"), task.row("a")["scheduled_at"] is not None) == ("RUNNING", True)
    task.set("a", "scheduled_at = now()")
    with transaction(engine) as connection:
        releases.end_delays(connection, task.id)
    [second] = task.begin("a")
    task.record([second])

    assert (first.failures, second.failures, second.generation) == (0, 1, first.generation)
    assert task.column("state") == "ROLLED_BACK"


def test_a_step_whose_worker_died_is_run_again(engine: Engine) -> None:
    task = failed_at(engine, "a")
    use(task, "rollback")
    [step] = task.begin("a")

    task.rescue(step.claim, seen=Seen(step.id))

    assert task.attempts("a")[-1]["outcome"] == "LOST"
    assert next_steps(task) == ["a"]
    task.run("a")
    assert task.column("state") == "ROLLED_BACK"


def test_the_late_record_of_a_claim_that_was_lost_changes_nothing(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ()}, {key: {**UNDOABLE, "lost_is_failure": True} for key in "ab"})
    [a, b] = [task.begin(key)[0] for key in "ab"]
    task.rescue(a.claim, seen=Seen(a.id))
    task.record([b], "FAILED")
    use(task, "rollback")
    before = task.rows()

    recorded = task.record([a])

    assert recorded.ids == frozenset()
    assert task.rows() == before


def test_a_paused_rollback_goes_on_when_it_is_resumed(engine: Engine) -> None:
    task = failed_at(engine, "d")
    use(task, "rollback")
    task.run("d")
    [b] = task.begin("b")
    task.release("c")

    use(task, "pause")
    assert task.claim("c") == []
    task.record([b])
    assert (task.column("state"), task.column("operation")) == ("SUSPENDED", "ROLLBACK")
    use(task, "resume")

    assert next_steps(task) == ["c"]
    task.run("c")
    task.run("a")
    assert task.column("state") == "ROLLED_BACK"


def test_a_cancelled_rollback_is_revoked_and_stays_so(engine: Engine) -> None:
    task = failed_at(engine, "d")
    use(task, "rollback")
    [d] = task.begin("d")

    use(task, "cancel")
    task.record([d])

    assert (task.column("state"), task.column("operation")) == ("REVOKED", "CANCEL")
    with refused(engine, WrongState):
        use(task, "rollback")


def test_a_rollback_keeps_to_the_limit_of_the_task(engine: Engine) -> None:
    graph = {"a": (), "b": (), "c": ()}
    task = make_task(engine, graph, dict.fromkeys(graph, UNDOABLE), concurrency=1)
    task.run("a")
    task.run("b")
    task.run("c", verdict="FAILED")
    use(task, "rollback")
    task.release("a", "b", "c")

    assert len(task.claim("a", "b", "c")) == 1


def test_what_the_end_of_a_step_undoes_at_once_is_bounded_and_a_dispatcher_goes_on(engine: Engine) -> None:
    depth = 250
    graph = {f"n{n}": (f"n{n - 1}",) if n else () for n in range(depth)}
    task = failed_at(engine, f"n{depth - 1}", graph, {f"n{depth - 1}": UNDOABLE})
    use(task, "rollback")

    task.run(f"n{depth - 1}")
    assert (task.column("state"), task.progress().undoing) == ("RUNNING", depth - 1 - 100)
    assert task.progress().turning == 0
    looks = 1
    while turned(task):
        looks += 1

    assert (task.column("state"), looks) == ("ROLLED_BACK", 2)


def test_a_chain_of_a_thousand_without_handlers_is_rolled_back_at_once(engine: Engine) -> None:
    graph = {f"n{n}": (f"n{n - 1}",) if n else () for n in range(1_000)}
    task = make_task(engine, graph)
    ids = list(task.ids.values())
    with transaction(engine) as connection:
        connection.exec_driver_sql(
            "UPDATE subtasks SET state = 'SUCCESSFUL', pending_upstreams = 0, finalized_at = now() WHERE id < %s",
            (ids[-1],),
        )
        connection.exec_driver_sql("UPDATE subtasks SET pending_upstreams = 0")
        connection.exec_driver_sql("UPDATE task_progress SET pending = 1, successful = 999, startable = 1")
    task.run("n999", verdict="FAILED")

    use(task, "rollback")

    assert task.column("state") == "ROLLED_BACK"
    assert (
        one(engine, "SELECT count(*) AS n FROM subtasks WHERE operation = 'ROLLBACK' AND gate = 'undone'")["n"] == 1_000
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_random_graph_is_undone_in_reverse_whatever_fails_on_the_way(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    keys = [f"n{n}" for n in range(14)]
    graph = {key: [up for up in keys[max(0, n - 5) : n] if chance.random() < 0.35] for n, key in enumerate(keys)}
    options = {key: {"has_rollback": chance.random() < 0.6, "allow_failure": chance.random() < 0.2} for key in keys}
    options[keys[-1]]["allow_failure"] = False
    task = make_task(engine, graph, options)
    while task.column("state") in {"CREATED", "RUNNING"}:
        key = chance.choice(task.frontier(only_named=task.progress().only_named)[:3])
        if task.row(key)["pending_upstreams"] == 0:
            task.run(key, verdict="FAILED" if key == keys[-1] or chance.random() < 0.1 else "SUCCESSFUL")
    begun = {key for key in keys if task.row(key)["attempt"]}

    use(task, "rollback")
    while task.column("state") != "ROLLED_BACK":
        assert violations(engine) == []
        failed = [key for key, state in task.states().items() if state == "FAILED"]
        if task.column("state") == "FAILED":
            use(task, *chance.choice([("rollback", None), ("skip", failed[0])]))
        else:
            task.run(chance.choice(next_steps(task)), verdict="FAILED" if chance.random() < 0.2 else "SUCCESSFUL")

    undone = {key for key in keys if task.row(key)["gate"] == "undone"}
    stepped = {row["key"] for row in many(engine, _STEPPED)}
    assert undone == begun
    assert stepped == {key for key in begun if options[key]["has_rollback"]}


_STEPPED = """
SELECT d.key FROM subtask_attempts AS a JOIN subtask_specs AS d ON d.id = a.subtask_id WHERE a.operation = 'ROLLBACK'
"""


def test_a_delay_of_what_is_undone_does_not_keep_a_failed_rollback_from_ending(engine: Engine) -> None:
    task = make_task(
        engine, {"a": (), "b": ("a",), "c": ("b",)}, {"a": {"has_rollback": True}, "b": {"has_rollback": True}}
    )
    task.run("a")
    task.run("b")
    task.run("c", verdict="FAILED")
    use(task, "rollback")
    task.set("c", "scheduled_at = now() + interval '1 hour'")  # as where it waited for another attempt

    task.run("b", verdict="FAILED")

    assert task.column("state") == "FAILED"
