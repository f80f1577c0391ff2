"""Retry and skip: what runs again, what is let go on, and what is left alone."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from schema.errors import WrongState
from schema.transitions import progress
from tests.factories import Graph, StoredTask, make_task, many, one
from tests.invariants import assert_invariants
from tests.operators import audit, expire, heard, refused, use


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def failed(engine: Engine, graph: Graph | None = None, *, max_attempts: int = 1) -> StoredTask:
    task = make_task(engine, graph or {"a": (), "b": ("a",)}, {"a": {"max_attempts": max_attempts}})
    task.run("a", verdict="FAILED")
    return task


def test_a_retry_grants_the_attempts_anew_while_their_number_goes_on(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
    task.run("a", verdict="RETRY")
    task.run("a", verdict="FAILED")

    use(task, "retry", "a")
    [claimed] = task.begin("a")

    assert (claimed.attempt, claimed.failures, claimed.operation) == (3, 0, "RETRY")
    task.record([claimed])
    assert [row["attempt"] for row in task.attempts("a")] == [1, 2, 3]
    assert [row["operation"] for row in task.attempts("a")] == ["EXECUTE", "EXECUTE", "RETRY"]


def test_an_idempotency_key_lasts_over_automatic_attempts_and_ends_with_a_retry(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
    [first] = task.begin("a")
    task.record([first], "RETRY")
    [second] = task.begin("a")
    task.record([second], "FAILED")

    use(task, "retry")
    [third] = task.begin("a")

    assert first.generation == second.generation
    assert third.generation > second.generation


def test_a_retry_takes_off_a_delay_and_lets_lost_starts_count_anew(engine: Engine) -> None:
    task = failed(engine)
    task.set("a", "starts = 3")

    use(task, "retry")

    row = task.row("a")
    assert (row["starts"], row["failures"], row["scheduled_at"], row["finalized_at"]) == (0, 0, None, None)


def test_a_task_that_runs_again_has_no_end_and_no_error_and_its_history_says_so(engine: Engine) -> None:
    task = failed(engine)
    started = task.column("started_at")

    use(task, "retry")

    assert (task.column("state"), task.column("operation"), task.column("status")) == ("RUNNING", "RETRY", 1)
    assert (task.column("finalized_at"), task.column("error")) == (None, None)
    assert task.column("started_at") == started
    history = one(engine, "SELECT state, error FROM sync_history")
    assert (history["state"], history["error"]) == ("RUNNING", None)


def test_a_task_retry_runs_all_that_failed_and_a_subtask_retry_only_its_own(engine: Engine) -> None:
    def both_failed() -> StoredTask:
        task = make_task(engine, {"a": (), "b": (), "c": ()})
        [a, b] = [task.begin(key)[0] for key in "ab"]
        task.record([a], "FAILED")
        task.record([b], "FAILED")
        return task

    whole, part = both_failed(), both_failed()
    use(whole, "retry")
    use(part, "retry", "a")

    assert whole.states() == {"a": "PENDING", "b": "PENDING", "c": "PENDING"}
    assert part.states() == {"a": "PENDING", "b": "FAILED", "c": "PENDING"}
    assert part.frontier(only_named=part.progress().only_named) == ["a"]
    assert (part.column("state"), part.column("operation")) == ("RUNNING", "EXECUTE")


def test_a_retried_subtask_runs_beside_its_siblings_and_wakes_the_dispatcher(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ()})
    [a, b] = [task.begin(key)[0] for key in "ab"]
    task.record([a], "FAILED")

    with heard(engine, progress.STARTABLE_CHANNEL) as payloads:
        use(task, "retry", "a")
    task.run("a")
    task.record([b])

    assert str(task.id) in payloads
    assert task.column("state") == "SUCCESSFUL"


def test_the_task_fails_again_when_the_retry_does(engine: Engine) -> None:
    task = failed(engine)
    use(task, "retry")

    task.run("a", verdict="FAILED", error_message="again")

    assert task.column("state") == "FAILED"
    assert task.column("error")["message"] == "again"


def test_a_retry_that_waits_for_its_next_attempt_keeps_the_task(engine: Engine) -> None:
    task = failed(engine, {"a": (), "b": ()}, max_attempts=3)
    use(task, "retry")

    task.run("a", verdict="RETRY", delay_seconds=60.0)

    assert (task.column("state"), task.states()["a"]) == ("RUNNING", "PENDING")


def test_a_retried_leaf_of_a_thousand_runs_alone_with_what_follows_it(engine: Engine) -> None:
    graph = {"root": ()} | {f"leaf{n}": ("root",) for n in range(998)} | {"after": ("leaf17",)}
    task = make_task(engine, graph)
    task.run("root")
    leaves = [key for key in graph if key.startswith("leaf")]
    claimed = task.begin(*leaves)
    task.record([one for one in claimed if one.key == "leaf17"], "FAILED", claim=claimed[0].claim)
    task.record([one for one in claimed if one.key != "leaf17"], claim=claimed[0].claim)
    assert task.column("state") == "FAILED"

    use(task, "retry", "leaf17")
    assert task.frontier() == ["leaf17", "after"]
    task.run("leaf17")
    task.run("after")

    assert task.column("state") == "SUCCESSFUL"
    runs = many(engine, "SELECT attempt, count(*) AS n FROM subtasks GROUP BY attempt ORDER BY attempt")
    assert [(row["attempt"], row["n"]) for row in runs] == [(1, 999), (2, 1)]


def test_a_skip_frees_what_follows_and_leaves_no_result(engine: Engine) -> None:
    task = failed(engine, {"a": (), "b": ("a",), "c": ("b",)})

    use(task, "skip", "a")

    assert (task.row("a")["state"], task.row("a")["operation"]) == ("SUCCESSFUL", "SKIP")
    assert task.column("state") == "RUNNING"
    assert task.frontier() == ["b", "c"]
    assert many(engine, "SELECT * FROM subtask_results") == []
    task.run("b")
    task.run("c")
    assert task.column("state") == "SUCCESSFUL"


def test_a_skip_leaves_the_task_failed_while_others_have_failed(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ("a",)})
    [a, b] = [task.begin(key)[0] for key in "ab"]
    task.record([a], "FAILED")
    task.record([b], "FAILED")

    use(task, "skip", "a")

    assert (task.column("state"), task.progress().open) == ("FAILED", False)
    assert task.progress().startable == 1
    use(task, "skip", "b")
    assert task.column("state") == "RUNNING"
    assert task.frontier() == ["c"]


def test_a_skip_of_the_last_failure_ends_the_task_in_the_same_transaction(engine: Engine) -> None:
    task = failed(engine, {"a": ()})

    use(task, "skip", "a")

    assert (task.column("state"), task.column("status"), task.progress().open) == ("SUCCESSFUL", 2, False)
    assert task.column("error") is None
    assert one(engine, "SELECT state FROM sync_history")["state"] == "SUCCESSFUL"
    assert audit(task)[-1]["to_state"] == "SUCCESSFUL"


def test_a_skip_beside_running_siblings_wakes_the_dispatcher_for_what_the_failure_held_back(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()})
    [a, _] = [task.begin(key)[0] for key in "ab"]
    task.record([a], "FAILED")

    with heard(engine, progress.STARTABLE_CHANNEL) as payloads:
        use(task, "skip", "a")

    assert str(task.id) in payloads
    assert task.progress().only_named is False
    assert task.frontier() == ["c"]


def test_a_skip_in_a_paused_task_leaves_it_paused_or_ends_it(engine: Engine) -> None:
    for graph, state in (({"a": (), "b": ()}, "SUSPENDED"), ({"a": ()}, "FAILED")):
        task = make_task(engine, graph)
        [a, *rest] = [task.begin(key)[0] for key in graph]
        use(task, "pause")
        task.record([a], "FAILED")
        assert task.column("state") == state
        if rest:
            use(task, "skip", "a")
            assert task.column("state") == "SUSPENDED"
            task.record(rest)
            assert task.column("state") == "SUCCESSFUL"


def allowed(engine: Engine) -> StoredTask:
    """Return a task whose first subtask failed as it might, and two that follow it, one at a time."""
    options = {"a": {"allow_failure": True, "max_attempts": 2}}
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("b",), "d": ()}, options)
    task.run("a", verdict="FAILED")
    return task


def test_what_follows_a_retried_allowed_failure_waits_for_it_again(engine: Engine) -> None:
    task = allowed(engine)
    task.release("b", "d")

    use(task, "retry", "a")

    assert task.states() == {"a": "PENDING", "b": "PENDING", "c": "PENDING", "d": "PENDING"}
    assert (task.row("b")["pending_upstreams"], task.row("b")["carrier"]) == (1, None)
    assert task.frontier() == ["a", "b", "c", "d"]
    task.run("a")
    assert task.row("b")["pending_upstreams"] == 0


def test_what_had_ended_after_an_allowed_failure_stays_as_it_ended(engine: Engine) -> None:
    task = allowed(engine)
    task.run("b")

    use(task, "retry", "a")
    assert task.row("b")["state"] == "SUCCESSFUL"
    task.run("a", verdict="FAILED")
    task.run("c")
    task.run("d")

    assert task.column("state") == "SUCCESSFUL"
    assert task.row("b")["attempt"] == 1
    with refused(engine, WrongState):
        use(task, "retry", "a")


def test_a_failed_follower_and_its_allowed_failure_can_be_retried_together_or_one_by_one(engine: Engine) -> None:
    for verbs in ([None], ["a", "b"], ["b", "a"]):
        task = allowed(engine)
        task.run("b", verdict="FAILED")

        for key in verbs:
            use(task, "retry", key)
        task.run("a")
        for key in "bcd":
            task.run(key)

        assert task.column("state") == "SUCCESSFUL"
        assert [task.row(key)["attempt"] for key in "abcd"] == [2, 2, 1, 1]


@pytest.mark.parametrize("asked", [False, True], ids=["running", "canceling"])
def test_an_allowed_failure_is_not_retried_while_what_follows_it_runs(engine: Engine, asked: bool) -> None:
    task = allowed(engine)
    [b] = task.begin("b")
    if asked:
        use(task, "cancel", "b")

    with refused(engine, WrongState, match="'b'.*: wait until it has ended, or cancel it") as caught:
        use(task, "retry", "a")

    assert caught.value.target == str(task.ids["b"])
    task.record([b])


@pytest.mark.parametrize("follower", ["waiting", "released", "running", "ended"])
def test_an_allowed_failure_can_be_skipped_whatever_follows_it_does(engine: Engine, follower: str) -> None:
    task = allowed(engine)
    if follower == "released":
        task.release("b")
    elif follower == "running":
        task.begin("b")
    elif follower == "ended":
        task.run("b")
    before = task.row("b")

    use(task, "skip", "a")

    assert task.row("b") == before
    assert (task.row("a")["state"], task.progress().allowed) == ("SUCCESSFUL", 0)


def test_a_cancelled_subtask_that_may_fail_lets_go_on_what_follows(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"allow_failure": True}})
    [a] = task.begin("a")

    use(task, "cancel", "a")
    task.record([a])

    assert (task.row("a")["state"], task.row("a")["operation"]) == ("FAILED", "CANCEL")
    assert task.frontier() == ["b"]


def test_a_retry_grants_the_time_until_the_deadline_anew(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, deadline_seconds=3600.0)
    [a] = task.begin("a")
    expire(task)
    task.record([a])
    assert task.column("state") == "FAILED"

    use(task, "retry")

    left = one(engine, "SELECT deadline_at - now() AS left FROM tasks")["left"].total_seconds()
    assert 50 < left <= 60
    assert task.progress().stopping is None
    task.run("a")
    task.run("b")
    assert task.column("state") == "SUCCESSFUL"


def test_a_task_that_was_overdue_with_nothing_failed_goes_on_when_it_is_retried(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    task.run("a")
    expire(task)
    assert (task.column("state"), task.states()) == ("FAILED", {"a": "SUCCESSFUL", "b": "PENDING"})

    use(task, "retry")
    task.run("b")

    assert task.column("state") == "SUCCESSFUL"
