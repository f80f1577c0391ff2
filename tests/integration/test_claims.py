from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, text

from schema.carriers import carrier_number
from schema.database import transaction
from schema.transitions import claims, progress, releases
from tests.factories import StoredTask, claim_within, make_task, many, together
from tests.invariants import assert_invariants, violations

PAIR = {"a": (), "b": ()}
RUN = {"a": (), "b": ("a",), "c": ("b",)}


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def test_a_claim_takes_what_is_ready_under_one_number(engine: Engine) -> None:
    task = make_task(engine, PAIR)
    task.release("a", "b")

    claimed = task.claim("b", "a")

    assert [one.key for one in claimed] == ["a", "b"]
    assert len({one.claim for one in claimed}) == 1
    assert {one.attempt for one in claimed} == {1}
    assert task.states() == {"a": "RUNNING", "b": "RUNNING"}


def test_a_claim_carries_what_its_worker_needs(engine: Engine) -> None:
    options = {
        "b": {
            "kind": "host.mount",
            "arguments": {"path": "/data"},
            "from_keys": ("a",),
            "timeout": 60.0,
            "max_attempts": 3,
            "backoff_seconds": 2.0,
        }
    }
    task = make_task(engine, {"a": (), "b": ("a",)}, options)
    task.run("a")

    [claimed] = task.begin("b")

    assert (claimed.kind, claimed.arguments, claimed.from_keys) == ("host.mount", {"path": "/data"}, ("a",))
    assert (claimed.timeout, claimed.max_attempts, claimed.backoff_seconds) == (60.0, 3, 2.0)
    assert (claimed.operation, claimed.series_id, claimed.failures) == ("EXECUTE", 1, 0)
    assert claimed.claimed_at == task.row("b")["started_at"]


def test_every_claim_has_a_greater_number_than_all_before(engine: Engine) -> None:
    task = make_task(engine, PAIR)

    [first] = task.begin("a")
    [second] = task.begin("b")

    assert second.claim > first.claim


def test_of_two_processes_that_claim_at_the_same_moment_one_wins(engine: Engine) -> None:
    for _ in range(10):
        task = make_task(engine, {"a": ()})
        task.release("a")

        taken = together(4, lambda number, task=task: task.claim("a", process=100 + number))

        assert sorted(len(one) for one in taken) == [0, 0, 0, 1]
        winner = next(number for number, one in enumerate(taken) if one)
        assert task.row("a")["process"] == 100 + winner
        assert task.row("a")["attempt"] == 1


def test_overlapping_claims_share_out_what_is_ready(engine: Engine) -> None:
    keys = [f"s{number}" for number in range(12)]
    task = make_task(engine, dict.fromkeys(keys, ()))
    task.release(*keys)

    taken = together(4, lambda number: task.claim(*keys[number * 2 : number * 2 + 6], process=number + 1))

    claimed = [one.key for batch in taken for one in batch]
    assert sorted(claimed) == sorted(keys)


def test_what_is_not_released_is_not_claimed(engine: Engine) -> None:
    task = make_task(engine, PAIR)

    assert task.claim("a") == []
    assert task.states() == {"a": "PENDING", "b": "PENDING"}


def test_a_message_that_comes_before_the_upstream_has_ended_takes_nothing(engine: Engine) -> None:
    task = make_task(engine, RUN)
    carrier = carrier_number(1, 0, 0)
    task.release(carriers=dict.fromkeys("abc", carrier))

    assert [one.key for one in task.claim("b", "c")] == []
    assert [one.key for one in task.claim("a", "b", "c")] == ["a"]


def test_the_subtasks_of_another_task_are_not_claimed(engine: Engine) -> None:
    mine, other = make_task(engine, {"a": ()}), make_task(engine, {"a": ()})
    other.release("a")

    with mine.locked() as (connection, locked):
        taken = claim_within(connection, locked.id, [other.ids["a"]], process=1, executor="one")

    assert taken == []
    assert other.states() == {"a": "READY"}


def test_the_tasks_limit_refuses_what_is_beyond_it(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()}, concurrency=2)
    task.release("a", "b", "c")

    first = task.claim("a", "b", "c")
    refused = task.claim("c", process=8)

    assert [one.key for one in first] == ["a", "b"]
    assert refused == []
    task.record(first[:1])
    assert [one.key for one in task.claim("c", process=8)] == ["c"]


def test_the_limit_holds_for_many_that_claim_at_once(engine: Engine) -> None:
    keys = [f"s{number}" for number in range(8)]
    task = make_task(engine, dict.fromkeys(keys, ()), concurrency=3)
    task.release(*keys)

    taken = together(8, lambda number: task.claim(keys[number], process=number + 1))

    assert sum(map(len, taken)) == 3


def test_what_an_operator_named_is_claimed_under_a_limit_although_others_come_first(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": (), "d": ()}, concurrency=1)
    [held] = task.begin("d")
    task.release("a", "b")
    task.name("b")
    task.record([held], "FAILED")
    task.release("a")  # as a dispatcher does that had looked before

    assert [one.key for one in task.claim("a", "b")] == ["b"]
    task.hand_back("a", carrier=task.row("a")["carrier"])


def test_while_a_task_is_failing_only_what_an_operator_named_is_claimed(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": (), "d": ()})
    [failed, _running] = task.begin("a", "b")
    task.release("c", "d")
    task.name("d")

    task.record([failed], "FAILED")

    assert task.states() == {"a": "FAILED", "b": "RUNNING", "c": "PENDING", "d": "READY"}
    assert task.claim("c") == []
    assert [one.key for one in task.claim("d")] == ["d"]


def test_in_a_closed_task_nothing_is_claimed_not_even_what_an_operator_named(engine: Engine) -> None:
    task = make_task(engine, PAIR)
    task.release("a", "b")
    task.name("b")
    with task.locked() as (connection, _):
        connection.execute(text("UPDATE task_progress SET open = false WHERE id = :id"), {"id": task.id})

    assert task.claim("a", "b") == []


def test_a_hand_back_is_not_charged(engine: Engine) -> None:
    task = make_task(engine, PAIR)
    carriers = task.release("a", "b")
    [claimed] = task.claim("a")

    returned = task.hand_back("a", carrier=carriers["a"], claim=claimed.claim)

    row = task.row("a")
    assert returned == [task.ids["a"]]
    assert (row["state"], row["attempt"], row["starts"], row["failures"]) == ("PENDING", 0, 0, 0)
    assert (row["claim"], row["process"], row["carrier"], row["attempted_at"]) == (None, None, None, None)
    assert task.attempts("a") == []
    assert task.frontier() == ["a"]


def test_a_hand_back_after_a_failed_attempt_keeps_what_that_one_cost(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 3}})
    task.run("a", verdict="RETRY")
    first_attempted_at = task.row("a")["attempted_at"]
    [claimed] = task.begin("a")
    assert claimed.attempt == 2

    task.hand_back("a", claim=claimed.claim)

    row = task.row("a")
    assert (row["attempt"], row["starts"], row["failures"]) == (1, 1, 1)
    assert row["attempted_at"] == first_attempted_at
    assert [one.attempt for one in task.begin("a")] == [2]


def test_a_hand_back_with_another_claim_number_returns_nothing(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    [claimed] = task.begin("a")

    assert task.hand_back("a", claim=claimed.claim + 1) == []
    assert task.hand_back("a", claim=claimed.claim, process=8) == []
    assert task.states() == {"a": "RUNNING"}


def test_a_claim_whose_answer_was_lost_is_handed_back_by_its_process(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()})
    task.begin("a", process=7)
    task.begin("b", process=8)
    task.release("c")

    returned = task.hand_back("a", "b", "c", process=7, claim=None)

    assert returned == [task.ids["a"]]
    assert task.states() == {"a": "PENDING", "b": "RUNNING", "c": "READY"}


def test_a_hand_back_leaves_what_is_being_cancelled(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    [claimed] = task.begin("a")
    task.cancel("a")

    assert task.hand_back("a", claim=claimed.claim) == []
    assert task.states() == {"a": "CANCELING"}


def test_what_another_carrier_has_released_since_is_not_handed_back(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    old = task.release("a")["a"]
    task.hand_back("a", carrier=old)
    task.release("a")

    assert task.hand_back("a", carrier=old) == []
    assert task.states() == {"a": "READY"}


def test_what_has_no_handler_is_declined_uncharged_and_offered_again_a_moment_later(engine: Engine) -> None:
    task = make_task(
        engine, {"a": (), "b": (), "c": (), "d": ("c",)}, {"a": {"kind": "new.kind"}, "c": {"kind": "new.kind"}}
    )
    carrier = carrier_number(1, 0, 0)
    task.release(carriers=dict.fromkeys("abcd", carrier))
    [first, _] = task.claim("a", "b")

    declined = task.decline("a", "b", "c", "d", claim=first.claim, carrier=carrier, kinds=["test.kind"])

    row = task.row("a")
    delay = (row["scheduled_at"] - datetime.now(UTC)).total_seconds()
    assert declined == {task.ids["a"], task.ids["c"]}
    assert task.states() == {"a": "PENDING", "b": "RUNNING", "c": "PENDING", "d": "PENDING"}
    assert (row["attempt"], row["starts"], row["failures"], row["claim"]) == (0, 0, 0, None)
    assert 0 < delay < 2
    assert task.frontier() == []
    assert violations(engine) == []
    task.set("a", "scheduled_at = now()")
    with transaction(engine) as connection:
        releases.end_delays(connection, task.id)
    assert task.frontier() == ["a"]


def test_only_the_claim_that_took_it_declines_it(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    [claimed] = task.begin("a")

    assert task.decline("a", claim=claimed.claim + 1) == frozenset()
    assert task.decline("a", claim=claimed.claim, process=8) == frozenset()
    assert task.states() == {"a": "RUNNING"}


def test_what_is_declined_while_the_task_fails_ends_it(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ()})
    [claimed] = task.begin("a")
    task.run("b", verdict="FAILED")

    task.decline("a", claim=claimed.claim)

    assert task.column("state") == "FAILED"
    assert violations(engine) == []


def test_when_the_rest_of_a_slice_goes_back_after_a_failure_the_task_ends(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()})
    carrier = carrier_number(1, 0, 0)
    task.release(carriers=dict.fromkeys("abc", carrier))
    claimed = task.claim("a", "b", "c")

    task.record(claimed[:1], "FAILED", carrier=carrier)
    task.hand_back("b", "c", carrier=carrier, claim=claimed[0].claim)

    assert task.states() == {"a": "FAILED", "b": "PENDING", "c": "PENDING"}
    assert task.column("state") == "FAILED"


def _in_two_fragments(engine: Engine) -> tuple[StoredTask, dict[str, int]]:
    """Two runs of three, each one fragment of three steps; the second step of the first has two places."""
    graph = {"a": (), "b": ("a",), "b2": ("a",), "c": ("b", "b2"), "x": (), "y": ("x",), "z": ("y",)}
    task = make_task(engine, graph)
    carriers = {
        "a": carrier_number(10, 0, 0),
        "b": carrier_number(10, 1, 0),
        "b2": carrier_number(10, 1, 1),
        "c": carrier_number(10, 2, 0),
        "x": carrier_number(11, 0, 0),
        "y": carrier_number(11, 1, 0),
        "z": carrier_number(11, 2, 0),
    }
    task.release(carriers=carriers)
    return task, carriers


def _drop(task: StoredTask, carrier: int) -> set[str]:
    before = {key for key, row in task.rows().items() if row["carrier"] is not None}
    with task.locked() as (connection, _):
        claims.drop_followers(connection, task.id, carrier)
    return before - {key for key, row in task.rows().items() if row["carrier"] is not None}


@pytest.mark.parametrize(
    ("key", "dropped"),
    [("a", {"b", "b2", "c"}), ("b", {"b", "c"}), ("b2", {"b2", "c"}), ("c", {"c"}), ("x", {"y", "z"})],
)
def test_only_what_follows_in_the_same_fragment_is_dropped(engine: Engine, key: str, dropped: set[str]) -> None:
    task, carriers = _in_two_fragments(engine)

    assert _drop(task, carriers[key]) == dropped


def test_a_dropped_follower_that_was_ready_is_pending_again_and_startable(engine: Engine) -> None:
    task, carriers = _in_two_fragments(engine)
    task.record(task.claim("x"), carrier=carriers["x"])
    assert task.states()["y"] == "READY"

    _drop(task, carriers["x"])

    assert task.states()["y"] == "PENDING"
    assert task.frontier() == ["y", "z"]


def test_the_last_of_a_fragment_does_not_drop_the_first_of_the_next(engine: Engine) -> None:
    task, _ = _in_two_fragments(engine)

    assert _drop(task, carrier_number(10, 4095, 4095)) == set()


def test_a_dispatch_lock_is_held_by_one_connection_until_its_transaction_ends(engine: Engine) -> None:
    task, other = make_task(engine, {"a": ()}), make_task(engine, {"a": ()})

    with transaction(engine) as first:
        assert progress.try_dispatch_locks(first, [task.id])
        with transaction(engine) as second:
            assert not progress.try_dispatch_locks(second, [task.id])
            assert progress.try_dispatch_locks(second, [other.id])
            progress.lock(second, task.id)  # workers go on meanwhile
    with transaction(engine) as third:
        assert progress.try_dispatch_locks(third, [task.id])


@pytest.mark.parametrize("number", [1, 2**31 - 1, 2**31, 2**32, 2**40 + 5])
def test_a_task_of_any_number_can_be_locked_for_dispatch(engine: Engine, number: int) -> None:
    with transaction(engine) as connection:
        assert progress.try_dispatch_locks(connection, [progress.TaskId(number)])


def test_a_claim_is_refused_only_for_what_was_asked(engine: Engine) -> None:
    task = make_task(engine, PAIR)
    task.release("a", "b")

    task.claim("a")

    assert many(engine, "SELECT id FROM subtasks WHERE state = 'READY'")[0]["id"] == task.ids["b"]
