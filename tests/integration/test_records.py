import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from schema.carriers import carrier_number
from schema.database import transaction
from schema.transitions import progress, records, releases
from tests.factories import claim_within, make_task, many, one, outcome, together
from tests.invariants import assert_invariants

PAIR = {"a": (), "b": ()}
RUN = {"a": (), "b": ("a",), "c": ("b",)}


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def test_a_success_is_recorded_with_its_attempt_and_its_result(engine: Engine) -> None:
    task = make_task(engine, PAIR)
    [claimed] = task.begin("a")

    recorded = task.record([claimed], result={"cpu": 8})

    assert (recorded.ids, recorded.clean) == (frozenset({task.ids["a"]}), True)
    assert recorded.progress == task.progress()
    [attempt] = task.attempts("a")
    assert (attempt["outcome"], attempt["attempt"], attempt["claim"]) == ("SUCCESSFUL", 1, claimed.claim)
    assert attempt["started_at"] == claimed.claimed_at <= attempt["finished_at"]
    assert many(engine, "SELECT result FROM subtask_results")[0]["result"] == {"cpu": 8}


@pytest.mark.parametrize("result", [0, False, "", [], {}, "text", [1, {"deep": [None]}], 2**60, "zwölf"])
def test_a_result_of_any_json_comes_back_as_it_was(engine: Engine, result: object) -> None:
    task = make_task(engine, {"a": ()})

    task.run("a", result=result)

    assert one(engine, "SELECT result FROM subtask_results")["result"] == result


def test_a_subtask_that_returned_nothing_has_no_result(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})

    task.run("a", result=None)

    assert many(engine, "SELECT result FROM subtask_results") == []


def test_a_record_under_a_claim_that_was_lost_changes_nothing(engine: Engine) -> None:
    task = make_task(engine, RUN)
    [lost] = task.begin("a")
    task.hand_back("a", claim=lost.claim)
    [held] = task.begin("a", process=8)
    before, counters = task.rows(), task.progress()

    recorded = task.record([lost], result="late")

    assert (recorded.ids, recorded.clean) == (frozenset(), False)
    assert (task.rows(), task.progress()) == (before, counters)
    assert task.attempts("a") == []
    assert task.record([held]).ids == {task.ids["a"]}


def test_a_record_that_comes_twice_counts_once(engine: Engine) -> None:
    task = make_task(engine, RUN)
    [claimed] = task.begin("a")
    task.record([claimed])

    again = task.record([claimed], "FAILED", claim=claimed.claim)

    assert again.ids == frozenset()
    assert task.states() == {"a": "SUCCESSFUL", "b": "PENDING", "c": "PENDING"}
    assert task.row("b")["pending_upstreams"] == 0


def test_of_a_batch_only_what_is_still_held_is_recorded(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()})
    claimed = task.begin("a", "b", "c")
    task.hand_back("b", claim=claimed[0].claim)

    recorded = task.record(claimed)

    assert recorded.ids == {task.ids["a"], task.ids["c"]}
    assert recorded.clean is False
    assert task.states() == {"a": "SUCCESSFUL", "b": "PENDING", "c": "SUCCESSFUL"}


@pytest.mark.parametrize("verdict", ["SUCCESSFUL", "FAILED", "RETRY"])
def test_what_is_being_cancelled_ends_failed_whatever_its_handler_does(
    engine: Engine, verdict: records.Verdict
) -> None:
    task = make_task(engine, PAIR)
    [claimed] = task.begin("a")
    task.cancel("a")

    recorded = task.record([claimed], verdict, delay_seconds=60.0)

    row = task.row("a")
    assert recorded.clean is False
    assert (row["state"], row["operation"], row["scheduled_at"]) == ("FAILED", "CANCEL", None)
    assert [attempt["outcome"] for attempt in task.attempts("a")] == ["CANCELED"]
    assert task.column("state") == "FAILED"


def test_a_retry_with_a_delay_waits_for_its_time(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})

    task.run("a", verdict="RETRY", delay_seconds=60.0)

    row = task.row("a")
    assert (row["state"], row["failures"], row["carrier"]) == ("PENDING", 1, None)
    [attempt] = task.attempts("a")
    assert (attempt["outcome"], attempt["error_message"]) == ("FAILED", "a failed")
    assert timedelta(seconds=59) < row["scheduled_at"] - attempt["finished_at"] < timedelta(seconds=61)
    assert task.progress().startable == 0
    assert task.frontier() == []
    assert task.column("state") == "RUNNING"


def test_a_delayed_retry_may_start_when_its_time_has_come(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
    task.run("a", verdict="RETRY", delay_seconds=60.0)
    with transaction(engine) as connection:
        assert releases.tasks_with_due_delays(connection, limit=10) == []
        assert 58 < (releases.seconds_to_next_delay(connection) or 0) <= 60
        releases.end_delays(connection, task.id)
    assert task.frontier() == []

    task.set("a", "scheduled_at = now() - interval '1 second'")
    with transaction(engine) as connection:
        due = releases.tasks_with_due_delays(connection, limit=10)
        assert releases.seconds_to_next_delay(connection) == 0
        releases.end_delays(connection, task.id)
        releases.end_delays(connection, task.id)

    assert due == [task.id]
    assert task.frontier() == ["a"]
    [second] = task.begin("a")
    assert (second.attempt, second.failures) == (2, 1)


@pytest.mark.parametrize("delay", [0.0, None])
def test_a_retry_without_a_delay_may_start_at_once(engine: Engine, delay: float | None) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})

    task.run("a", verdict="RETRY", delay_seconds=delay)

    assert task.row("a")["scheduled_at"] is None
    assert task.frontier() == ["a"]


def test_a_run_that_retries_leaves_none_of_its_later_steps_to_its_old_message(engine: Engine) -> None:
    task = make_task(engine, RUN)
    carrier = carrier_number(1, 0, 0)
    task.release(carriers=dict.fromkeys("abc", carrier))

    task.record(task.claim("a"), "RETRY", carrier=carrier, delay_seconds=0.0)

    assert [row["carrier"] for row in task.rows().values()] == [None, None, None]
    assert task.frontier() == ["a", "b", "c"]


def test_a_step_that_may_fail_hands_what_follows_it_to_the_dispatcher(engine: Engine) -> None:
    task = make_task(engine, RUN, {"a": {"allow_failure": True}})
    carrier = carrier_number(1, 0, 0)
    task.release(carriers=dict.fromkeys("abc", carrier))

    task.record(task.claim("a"), "FAILED", carrier=carrier)

    assert [row["carrier"] for row in task.rows().values()] == [None, carrier, None]
    assert task.hand_back("b", "c", carrier=carrier) == [task.ids["b"]]  # as the worker does with what it will not run
    assert task.frontier() == ["b", "c"]


def test_a_carried_downstream_becomes_ready_in_the_record_of_its_last_upstream(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ("a", "b")})
    carriers = {key: carrier_number(1, *place) for key, place in {"a": (0, 0), "b": (0, 1), "c": (1, 0)}.items()}
    task.release(carriers=carriers)
    assert task.row("c")["released_at"] is None

    task.record(task.claim("a"))
    assert task.states()["c"] == "PENDING"
    recorded = task.record(task.claim("b"))

    assert task.states()["c"] == "READY"
    assert task.row("c")["released_at"] is not None
    assert recorded.progress.startable == 0


def test_a_downstream_without_a_carrier_becomes_startable(engine: Engine) -> None:
    task = make_task(engine, RUN)

    recorded = task.run("a")

    assert recorded.progress.startable == 1
    assert task.frontier() == ["b", "c"]


def test_a_failure_that_is_allowed_lets_the_downstream_start_and_the_task_succeed(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"allow_failure": True}})

    recorded = task.run("a", verdict="FAILED")

    assert (recorded.progress.failed, recorded.progress.allowed, recorded.progress.is_failing) == (1, 1, False)
    task.run("b")
    assert task.column("state") == "SUCCESSFUL"
    assert task.column("error") is None


@pytest.mark.parametrize("width", [2, 3, 8, 32])
def test_upstreams_that_end_at_the_same_moment_free_their_downstream_once(engine: Engine, width: int) -> None:
    keys = [f"u{number}" for number in range(width)]
    threads = min(width, 8)
    for carried in (True, False):
        task = make_task(engine, {**dict.fromkeys(keys, ()), "join": tuple(keys)})
        carriers = {key: carrier_number(1, 0, place) for place, key in enumerate(keys)}
        if carried:
            carriers["join"] = carrier_number(1, 1, 0)
        task.release(carriers=carriers)
        held = [task.claim(key, process=place + 1) for place, key in enumerate(keys)]

        together(threads, lambda part, task=task, held=held: [task.record(one) for one in held[part::threads]])

        assert task.states()["join"] == ("READY" if carried else "PENDING")
        assert task.progress().startable == (0 if carried else 1)
        assert task.row("join")["pending_upstreams"] == 0


def test_fan_in_holds_over_many_rounds_of_two(engine: Engine) -> None:
    for round_ in range(25):
        task = make_task(engine, {"a": (), "b": (), "join": ("a", "b")})
        task.release(carriers={"a": 1 << 24, "b": (1 << 24) + 1, **({"join": (1 << 24) + 4096} if round_ % 2 else {})})
        held = [task.claim("a", process=1), task.claim("b", process=2)]

        recorded = together(2, lambda number, task=task, held=held: task.record(held[number]))

        freed = [one.progress.startable + one.progress.ready for one in recorded]
        assert sorted(freed) == [0, 1]


def test_an_upstream_and_its_two_paths_to_a_join_each_count(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("a", "b")})

    task.run("a")
    assert task.row("c")["pending_upstreams"] == 1
    task.run("b")

    assert task.frontier() == ["c"]


def test_after_a_failure_what_was_released_is_recalled_and_what_runs_may_finish(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": (), "d": ("b",), "e": ()})
    [failed] = task.begin("a")
    [running] = task.begin("b", process=8)
    task.release("c")
    task.release("d")

    recorded = task.record([failed], "FAILED")

    assert task.states() == {"a": "FAILED", "b": "RUNNING", "c": "PENDING", "d": "PENDING", "e": "PENDING"}
    assert [row["carrier"] for key, row in task.rows().items() if key in "cde"] == [None, None, None]
    assert recorded.progress.is_failing
    assert task.frontier(only_named=True) == []
    assert task.column("state") == "RUNNING"

    task.record([running])

    assert task.states() == {"a": "FAILED", "b": "SUCCESSFUL", "c": "PENDING", "d": "PENDING", "e": "PENDING"}
    assert task.column("state") == "FAILED"


def test_while_a_task_is_failing_what_follows_an_operators_retry_is_not_released(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ("b",)})
    [failed] = task.begin("a")
    task.name("b")
    task.record([failed], "FAILED")

    assert task.column("state") == "RUNNING"
    assert task.frontier(only_named=True) == ["b"]

    task.run("b")
    assert task.states() == {"a": "FAILED", "b": "SUCCESSFUL", "c": "PENDING"}
    assert task.column("state") == "FAILED"


def test_a_failing_task_waits_for_the_delayed_attempt_that_an_operator_named(engine: Engine) -> None:
    task = make_task(engine, PAIR)
    [failed] = task.begin("a")
    task.name("b")
    [named] = task.begin("b")
    task.record([failed], "FAILED")

    task.record([named], "RETRY", delay_seconds=60.0)

    assert task.column("state") == "RUNNING"


def test_a_batch_in_which_one_fails_ends_the_task_when_nothing_else_runs(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()})
    task.release("c")
    carrier = carrier_number(90, 0, 0)
    task.release(carriers={"a": carrier, "b": carrier})
    claimed = task.claim("a", "b")
    with task.locked() as (connection, locked):
        outcomes = [outcome(connection, claimed[0]), outcome(connection, claimed[1], "FAILED")]
        recorded = records.record(connection, locked, outcomes, claim=claimed[0].claim, carrier=carrier)

    assert recorded.clean is False
    assert recorded.progress.ready == 0
    assert task.column("state") == "FAILED"


def test_a_record_and_the_next_claim_may_share_a_transaction(engine: Engine) -> None:
    task = make_task(engine, RUN)
    carrier = carrier_number(1, 0, 0)
    task.release(carriers=dict.fromkeys("abc", carrier))
    [first] = task.claim("a")

    with task.locked() as (connection, locked):
        recorded = records.record(connection, locked, [outcome(connection, first)], claim=first.claim, carrier=carrier)
        [second] = claim_within(connection, recorded.progress.id, [task.ids["b"]], process=7, executor="seven")

    assert second.key == "b"
    assert task.states() == {"a": "SUCCESSFUL", "b": "RUNNING", "c": "PENDING"}


def test_the_end_of_one_under_a_limit_lets_the_next_be_released(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()}, concurrency=1)
    [claimed] = task.begin("a")
    with transaction(engine) as connection:
        assert releases.tasks_with_startable(connection, limit=10) == {}

    assert task.record([claimed]).progress.room == 1

    with transaction(engine) as connection:
        assert list(releases.tasks_with_startable(connection, limit=10)) == [task.id]


def test_the_commit_that_makes_something_startable_wakes_a_dispatcher(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    [claimed] = task.begin("a")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
        listener.execute(text(f"LISTEN {progress.STARTABLE_CHANNEL}"))

        task.record([claimed])

        notices = list(listener.connection.driver_connection.notifies(timeout=5, stop_after=1))  # type: ignore[union-attr]
    assert [notice.payload for notice in notices] == [str(task.id)]


def test_a_record_waits_for_the_tasks_lock_and_then_sees_what_it_waited_for(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    [claimed] = task.begin("a")

    def work(number: int) -> frozenset[int]:
        if number:
            return frozenset(task.record([claimed]).ids)
        return frozenset(task.hand_back("a", claim=claimed.claim))

    returned, recorded = together(2, work)

    assert len(returned) + len(recorded) == 1
    assert len(task.attempts("a")) == len(recorded)


def test_an_error_with_every_kind_of_text_is_kept(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    message = 'line one\nline "two" \\u0041 %(x)s :task ünïcode 🦆'

    task.run("a", verdict="FAILED", error_type="x.Y", error_message=message, error_line=12)

    [attempt] = task.attempts("a")
    assert (attempt["error_type"], attempt["error_message"], attempt["error_line"]) == ("x.Y", message, 12)
    assert task.column("error") == {"type": "x.Y", "message": message, "subtask": "a"}


def test_a_wide_batch_is_recorded_in_one_statement(engine: Engine) -> None:
    keys = [f"s{number}" for number in range(500)]
    task = make_task(engine, {**dict.fromkeys(keys, ()), "join": tuple(keys)})
    claimed = task.begin(*keys)
    began = time.monotonic()

    recorded = task.record(claimed)

    assert len(recorded.ids) == 500
    assert task.frontier() == ["join"]
    assert time.monotonic() - began < 10


def test_what_a_cancelled_handler_returned_stays_on_its_attempt(engine: Engine) -> None:
    task = make_task(engine, {"a": [], "b": []})
    claimed = task.begin("a", "b")
    task.cancel("a")

    task.record(claimed, "SUCCESSFUL", result={"cpu": 8})

    assert [row["result"] for row in task.attempts("a")] == [{"cpu": 8}]
    assert [row["result"] for row in task.attempts("b")] == [None]  # its result is the subtask's
    assert task.states() == {"a": "FAILED", "b": "SUCCESSFUL"}
