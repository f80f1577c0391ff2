from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from schema.carriers import carrier_number
from schema.database import transaction
from schema.transitions import registrations, rescues, steps
from schema.transitions.claims import Wanted
from schema.transitions.logs import LogRow, write_logs
from schema.transitions.registrations import Beat, WorkerInfo
from schema.transitions.rescues import LOST_STARTS, LostClaim, LostUnit, Seen
from tests.factories import PROCESS, StoredTask, execute, make_task, many, together
from tests.invariants import assert_invariants

LONG_SILENCE, NO_SILENCE = 3600.0, 0.0
CARRIER = carrier_number(3, 0, 0)


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def _slice(engine: Engine, *keys: str, claimed: Sequence[str], **options: Any) -> StoredTask:
    """Return a slice in one unit of which some are claimed."""
    task = make_task(engine, dict.fromkeys(keys, ()), dict.fromkeys(keys, options))
    task.release(carriers=dict.fromkeys(keys, CARRIER))
    task.claim(*claimed)
    return task


def _claim_of(task: StoredTask, key: str) -> int:
    claim: int = task.row(key)["claim"]
    return claim


def _find_claims(engine: Engine, silence_seconds: float) -> list[LostClaim]:
    with transaction(engine) as connection:
        return rescues.find_lost_claims(connection, silence_seconds=silence_seconds, limit=100)


def _register(engine: Engine, worker: int = 50, *, claims: Sequence[int] = (), carriers: Sequence[int] = ()) -> None:
    with transaction(engine) as connection:
        registrations.register_worker(
            connection,
            WorkerInfo(id=worker, name="w", host="h", pid=1, queues=["default"], concurrency=2, code_version=""),
        )
        registrations.beat(connection, worker, Beat(processes=[PROCESS], claims=claims, carriers=carriers, started=1))


def test_a_claim_that_no_beat_has_listed_is_lost(engine: Engine) -> None:
    task = _slice(engine, "a", "b", claimed=["a", "b"])
    claim = _claim_of(task, "a")

    assert _find_claims(engine, NO_SILENCE) == [LostClaim(task.id, claim, PROCESS)]


def test_a_young_claim_is_not_lost(engine: Engine) -> None:
    _slice(engine, "a", claimed=["a"])

    assert _find_claims(engine, LONG_SILENCE) == []


def test_a_claim_in_a_live_beat_is_not_lost_but_one_in_an_old_beat_is(engine: Engine) -> None:
    task = _slice(engine, "a", claimed=["a"])
    claim = _claim_of(task, "a")
    _register(engine, claims=[claim])
    execute(engine, "UPDATE workers SET beat_at = now() + interval '1 minute'")
    assert _find_claims(engine, NO_SILENCE) == []
    execute(engine, "UPDATE workers SET beat_at = now() - interval '1 minute'")
    assert _find_claims(engine, NO_SILENCE) == [LostClaim(task.id, claim, PROCESS)]


def test_the_claims_of_a_worker_that_has_stopped_are_lost(engine: Engine) -> None:
    task = _slice(engine, "a", claimed=["a"])
    _register(engine, claims=[_claim_of(task, "a")])
    execute(engine, "UPDATE workers SET beat_at = now() + interval '1 minute'")
    with transaction(engine) as connection:
        registrations.stop_worker(connection, 50)

    assert len(_find_claims(engine, NO_SILENCE)) == 1


def test_no_claim_is_lost_within_the_silence_after_postgresql_itself_started(engine: Engine) -> None:
    task = _slice(engine, "a", claimed=["a"])
    task.set("a", "started_at = now() - interval '90 days'")

    assert _find_claims(engine, 60 * 24 * LONG_SILENCE) == []


def test_the_one_that_was_running_is_charged_and_the_others_go_back_uncharged(engine: Engine) -> None:
    task = _slice(engine, "a", "b", "c", claimed=["a", "b"])
    claim = _claim_of(task, "a")

    rescued = task.rescue(claim, seen=Seen(task.ids["a"]))

    assert sorted(rescued) == [task.ids["a"], task.ids["b"]]
    assert task.states() == {"a": "PENDING", "b": "PENDING", "c": "PENDING"}
    assert [task.row(key)["attempt"] for key in "abc"] == [1, 0, 0]
    assert [task.row(key)["failures"] for key in "abc"] == [0, 0, 0]
    [attempt] = task.attempts("a")
    assert (attempt["outcome"], attempt["error_type"], attempt["claim"]) == ("LOST", "worker_lost", claim)
    assert task.frontier() == ["a", "b", "c"]


def test_when_nobody_saw_which_was_running_all_go_back_uncharged_and_isolated(engine: Engine) -> None:
    task = _slice(engine, "a", "b", "c", claimed=["a", "b"])

    task.rescue(_claim_of(task, "a"), seen=None)

    assert [task.row(key)["attempt"] for key in "abc"] == [0, 0, 0]
    assert [task.row(key)["isolated"] for key in "abc"] == [True, True, False]
    assert task.attempts("a") == task.attempts("b") == []


def test_when_one_alone_was_claimed_it_was_the_one_that_ran(engine: Engine) -> None:
    task = _slice(engine, "a", "b", claimed=["a"])

    task.rescue(_claim_of(task, "a"), seen=None)

    assert [attempt["outcome"] for attempt in task.attempts("a")] == ["LOST"]
    assert [task.row(key)["isolated"] for key in "ab"] == [False, False]
    assert task.frontier() == ["a", "b"]


def test_when_the_process_had_begun_nothing_nothing_is_charged(engine: Engine) -> None:
    task = _slice(engine, "a", claimed=["a"])

    task.rescue(_claim_of(task, "a"), seen=Seen(None))

    assert task.row("a")["attempt"] == 0
    assert task.states() == {"a": "PENDING"}


def test_a_result_that_comes_after_the_rescue_is_dropped(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    [claimed] = task.begin("a")
    task.rescue(claimed.claim)

    recorded = task.record([claimed], claim=claimed.claim)

    assert recorded.ids == frozenset()
    assert task.states() == {"a": "PENDING", "b": "PENDING"}


def test_a_rescue_comes_twice_and_counts_once(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    [claimed] = task.begin("a")

    rescued = together(4, lambda _: task.rescue(claimed.claim))

    assert sorted(map(len, rescued)) == [0, 0, 0, 1]
    assert len(task.attempts("a")) == 1


def test_a_rescue_of_a_claim_that_another_process_has_taken_anew_does_nothing(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    [old] = task.begin("a")
    task.hand_back("a", claim=old.claim)
    task.begin("a", process=8)

    assert task.rescue(old.claim) == []
    assert task.states() == {"a": "RUNNING"}


def test_a_subtask_that_loses_its_workers_too_often_fails_and_says_so(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})

    for start in range(1, LOST_STARTS + 1):
        [claimed] = task.begin("a")
        assert claimed.attempt == start
        task.rescue(claimed.claim)

    assert task.states() == {"a": "FAILED"}
    assert [attempt["outcome"] for attempt in task.attempts("a")] == ["LOST"] * LOST_STARTS
    assert task.column("state") == "FAILED"
    assert task.column("error")["type"] == "worker_lost"
    assert task.row("a")["failures"] == 0


def test_lost_workers_do_not_use_up_the_attempts_that_failures_count(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
    [claimed] = task.begin("a")
    task.rescue(claimed.claim)

    [again] = task.begin("a")

    assert (again.attempt, again.failures) == (2, 0)
    task.hand_back("a", claim=again.claim)


def test_more_attempts_allow_more_lost_workers(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 5}})

    for _ in range(4):
        task.rescue(task.begin("a")[0].claim)
    assert task.states() == {"a": "PENDING"}
    task.rescue(task.begin("a")[0].claim)

    assert task.states() == {"a": "FAILED"}


def test_what_may_not_be_done_twice_fails_with_its_worker(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"lost_is_failure": True}})
    [claimed] = task.begin("a")

    task.rescue(claimed.claim)

    assert task.states() == {"a": "FAILED", "b": "PENDING"}
    assert task.column("state") == "FAILED"


def test_what_may_not_be_done_twice_fails_when_nobody_saw_whether_it_ran(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()}, {"a": {"lost_is_failure": True}})
    task.release(carriers=dict.fromkeys("abc", CARRIER))
    claimed = task.claim("a", "b", "c")

    task.rescue(claimed[0].claim, seen=None)

    assert task.states() == {"a": "FAILED", "b": "PENDING", "c": "PENDING"}
    assert [task.row(key)["isolated"] for key in "abc"] == [False, True, True]


def test_what_was_being_cancelled_ends_cancelled_with_its_worker(engine: Engine) -> None:
    task = _slice(engine, "a", "b", claimed=["a", "b"])
    claim = _claim_of(task, "a")
    task.cancel("b")

    task.rescue(claim, seen=Seen(task.ids["a"]))

    assert task.states() == {"a": "PENDING", "b": "FAILED"}
    assert task.row("b")["operation"] == "CANCEL"
    assert [attempt["outcome"] for attempt in task.attempts("b")] == ["CANCELED"]
    assert task.column("state") == "FAILED"


@pytest.mark.parametrize("timeout", [30.0, None])
def test_what_was_killed_after_its_cancel_grace_ends_cancelled(engine: Engine, timeout: float | None) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"timeout": timeout}})
    [claimed] = task.begin("a")
    task.cancel("a")

    task.rescue(claimed.claim, seen=Seen(claimed.id, timed_out=True))

    assert task.states() == {"a": "FAILED"}
    [attempt] = task.attempts("a")
    assert (attempt["outcome"], attempt["error_type"]) == ("CANCELED", "cancelled")
    assert attempt["error_message"] == "did not stop when it was asked to and was killed"


def test_what_must_not_begin_twice_fails_when_the_one_after_it_overran(engine: Engine) -> None:
    """It may have ended without a record; that its neighbour was killed gives it no other attempt."""
    task = make_task(engine, {"a": (), "b": ()}, {"a": {"lost_is_failure": True, "max_attempts": 3}})
    task.release("a", "b")
    [first, second] = task.claim("a", "b")

    task.rescue(first.claim, seen=Seen(second.id, timed_out=True))

    assert task.states() == {"a": "FAILED", "b": "FAILED"}
    assert [one["error_type"] for key in ("a", "b") for one in task.attempts(key)] == ["worker_lost", "timeout"]


def test_the_log_tells_what_a_dead_process_could_not(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
    [claimed] = task.begin("a")
    with transaction(engine) as connection:
        write_logs(connection, [LogRow(task.id, claimed.id, claimed.claim, 0, "at work\n")])

    task.rescue(claimed.claim, seen=Seen(claimed.id))

    rows = many(engine, "SELECT text FROM subtask_logs WHERE subtask_id = :id ORDER BY sequence", id=claimed.id)
    [attempt] = task.attempts("a")
    assert [row["text"] for row in rows] == ["at work\n", f"worker_lost: {attempt['error_message']}\n"]


def test_a_timeout_counts_as_a_failure_and_is_tried_again_after_a_pause(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"timeout": 30.0, "max_attempts": 2, "backoff_seconds": 8.0}})
    [claimed] = task.begin("a")

    task.rescue(claimed.claim, seen=Seen(claimed.id, timed_out=True))

    row, [attempt] = task.row("a"), task.attempts("a")
    assert (row["state"], row["failures"]) == ("PENDING", 1)
    assert (attempt["outcome"], attempt["error_type"]) == ("FAILED", "timeout")
    assert "30 s" in attempt["error_message"]
    pause = row["scheduled_at"] - attempt["finished_at"]
    assert timedelta(seconds=4) <= pause <= timedelta(seconds=12)


def test_the_pause_after_very_many_timeouts_is_at_most_an_hour(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"timeout": 1.0, "max_attempts": 10_000}})
    [claimed] = task.begin("a")
    execute(
        engine,
        "INSERT INTO subtask_attempts (subtask_id, claim, task_id, attempt, operation, outcome, claimed_at,"
        " started_at) SELECT :id, n - 5001, :task, n, 'EXECUTE', 'FAILED', now(), now() FROM generate_series(1, 5000) AS n",
        id=claimed.id,
        task=task.id,
    )
    task.set("a", "failures = 5000, attempt = 5001, starts = 5001")

    task.rescue(claimed.claim, seen=Seen(claimed.id, timed_out=True))

    row, attempt = task.row("a"), task.attempts("a")[-1]
    assert row["scheduled_at"] - attempt["finished_at"] <= timedelta(hours=1, seconds=1)


def test_a_timeout_of_the_last_attempt_fails(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"timeout": 30.0}})
    [claimed] = task.begin("a")

    task.rescue(claimed.claim, seen=Seen(claimed.id, timed_out=True))

    assert task.column("state") == "FAILED"
    assert task.column("error")["type"] == "timeout"


def test_when_a_failing_task_loses_what_still_ran_it_ends(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()})
    [failed] = task.begin("a")
    carrier = carrier_number(80, 0, 0)
    task.release(carriers={"b": carrier, "c": carrier})
    lost = task.claim("b", "c", process=8)
    task.record([failed], "FAILED")

    task.rescue(lost[0].claim, process=8, seen=None)

    assert task.states() == {"a": "FAILED", "b": "PENDING", "c": "PENDING"}
    assert task.column("state") == "FAILED"


def test_the_rest_of_a_straight_run_goes_back_with_the_step_that_was_lost(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("b",)})
    task.release(carriers={"a": CARRIER, "b": CARRIER, "c": carrier_number(3, 1, 0)})
    [claimed] = task.claim("a")

    task.rescue(claimed.claim, seen=Seen(task.ids["a"]))

    assert task.frontier() == ["a", "b", "c"]


def _find_units(engine: Engine, queue: str = "default", *, age_seconds: float = 0.0) -> list[LostUnit]:
    with transaction(engine) as connection:
        horizon = rescues.database_time(connection) - timedelta(seconds=age_seconds)
        return rescues.find_lost_units(connection, queue, horizon=horizon, silence_seconds=5.0, limit=100)


def test_units_released_before_the_horizon_that_nobody_holds_are_lost(engine: Engine) -> None:
    task = _slice(engine, "a", "b", "c", claimed=["c"])

    assert _find_units(engine) == [LostUnit(task.id, CARRIER, [task.ids["a"], task.ids["b"]])]
    assert _find_units(engine, age_seconds=60) == []
    assert _find_units(engine, "other") == []


def test_a_unit_that_a_live_worker_holds_is_not_lost(engine: Engine) -> None:
    _slice(engine, "a", claimed=[])
    _register(engine, carriers=[CARRIER])

    assert _find_units(engine) == []
    execute(engine, "UPDATE workers SET beat_at = now() - interval '1 minute'")
    assert len(_find_units(engine)) == 1


def test_the_queues_of_old_releases_are_known(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ()}, {"b": {"queue": "slow"}, "c": {"queue": "idle"}})
    task.release("a", "b")

    with transaction(engine) as connection:
        assert sorted(rescues.queues_with_old_releases(connection, age_seconds=0)) == ["default", "slow"]
        assert rescues.queues_with_old_releases(connection, age_seconds=60) == []


def test_a_lost_unit_and_what_would_have_followed_it_go_back_to_the_dispatcher(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ("a", "b"), "d": ("c",), "x": (), "y": ("x",)})
    carriers = {"a": (7, 0, 0), "b": (7, 0, 1), "c": (7, 1, 0), "d": (7, 2, 0), "x": (8, 0, 0), "y": (8, 1, 0)}
    task.release(carriers={key: carrier_number(*place) for key, place in carriers.items()})

    returned = task.recall_lost(carrier_number(7, 0, 0), "a")

    assert returned == [task.ids["a"]]
    assert {key for key, row in task.rows().items() if row["carrier"] is None} == {"a", "c", "d"}
    assert task.states()["b"] == task.states()["x"] == "READY"


def test_a_unit_claimed_since_it_was_found_lost_is_left_alone(engine: Engine) -> None:
    task = _slice(engine, "a", claimed=[])
    [lost] = _find_units(engine)
    [claimed] = task.claim("a")

    assert task.recall_lost(lost.carrier, "a") == []
    assert task.record([claimed]).ids == {task.ids["a"]}


def test_what_may_not_be_done_twice_fails_when_it_had_ended_without_a_record(engine: Engine) -> None:
    task = _slice(engine, "a", "b", "c", claimed=["a", "b", "c"], lost_is_failure=True)

    task.rescue(_claim_of(task, "a"), seen=Seen(task.ids["b"]))

    assert task.states() == {"a": "FAILED", "b": "FAILED", "c": "PENDING"}
    assert task.row("c")["attempt"] == 0


def test_what_had_not_begun_is_not_failed_although_it_may_not_be_done_twice(engine: Engine) -> None:
    task = _slice(engine, "a", claimed=["a"], lost_is_failure=True)

    task.rescue(_claim_of(task, "a"), seen=Seen(None))

    assert task.states() == {"a": "PENDING"}


def test_a_killed_attempt_waits_with_jitter_before_the_next(engine: Engine) -> None:
    delays = set()
    for _ in range(6):
        task = _slice(engine, "a", claimed=["a"], max_attempts=2, backoff_seconds=100.0, timeout=1.0)
        task.rescue(_claim_of(task, "a"), seen=Seen(task.ids["a"], timed_out=True))
        delays.add(round((task.row("a")["scheduled_at"] - task.attempts("a")[0]["finished_at"]).total_seconds()))

    assert all(49 <= delay <= 151 for delay in delays)
    assert len(delays) > 1


@pytest.mark.parametrize(("may_be_lost", "setting"), [(True, "off"), (False, "on")])
def test_a_claim_is_durable_only_for_what_may_not_be_begun_twice(
    engine: Engine, may_be_lost: bool, setting: str
) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"lost_is_failure": not may_be_lost}})
    task.release(carriers={"a": CARRIER})
    with transaction(engine) as connection:
        assert len(steps.take(connection, task.id, Wanted([task.ids["a"]], 1, "one"))) == 1
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == setting
