"""A unit of which something is to stop: the request reaches the handler, and whoever has not begun never does."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.settings import Settings
from schema.transitions import cancellations, retries
from schema.transitions.orders import Order
from schema.wire import UnitMessage
from tests.eventually import eventually
from tests.factories import PROCESS, StoredTask, make_task, many
from tests.invariants import assert_invariants
from tests.operators import use
from workers.attempt import AttemptRunner
from workers.canceler import Canceler
from workers.context import Context
from workers.events import TaskEvents
from workers.log_sink import LogFlusher
from workers.registry import Registry
from workers.runner import UnitRunner
from workers.slots import NEVER, Slot, Slots

ORDER = Order("operator", account="0")
GRACE_SECONDS = 30.0
Handlers = dict[str, Callable[[Context], object]]


@pytest.fixture
def slots() -> Slots:
    slots = Slots(1)
    slots[0].take_over(process=PROCESS, pid=os.getpid())
    return slots


@pytest.fixture
def canceler(engine: Engine, slots: Slots) -> Iterator[Canceler]:
    canceler = Canceler(engine, slots, grace_seconds=GRACE_SECONDS)
    canceler.start()
    yield canceler
    canceler.stop()


def _unit(engine: Engine, *keys: str, **options: Mapping[str, object]) -> tuple[StoredTask, UnitMessage]:
    """Return subtasks without edges that were released as one slice, and their message; `options` go by key."""
    task = make_task(engine, dict.fromkeys(keys, ()), options)
    carriers = task.release(*keys[:1])
    carrier = carriers[keys[0]]
    task.release(*keys[1:], carriers=dict.fromkeys(keys[1:], carrier))
    return task, UnitMessage(task.id, carrier, straight=False, ids=tuple(task.ids[key] for key in keys))


def _run(engine: Engine, slot: Slot, message: UnitMessage, handlers: Handlers, **settings: float) -> list[str]:
    """Run the unit, and return the keys whose handlers were called: by key, or nothing is done."""
    called: list[str] = []
    registry = Registry()

    @registry.subtask("test.kind")
    def handle(ctx: Context) -> None:
        called.append(ctx.subtask.key)
        handlers.get(ctx.subtask.key, lambda _: None)(ctx)

    made = Settings(**settings)  # type: ignore[arg-type]
    attempts = AttemptRunner(registry, LogFlusher(lambda _: None), made)
    events = TaskEvents(lambda _: 0, hostname="test", listens=lambda: False)
    runner = UnitRunner(engine, attempts, slot, made, events, process=PROCESS, executor="test")
    runner.run(message, kind="test.kind")
    return called


def _cancel(engine: Engine, task: StoredTask, key: str | None) -> None:
    with transaction(engine) as connection:
        if key is None:
            cancellations.cancel_task(connection, task.id, ORDER)
        else:
            cancellations.cancel_subtask(connection, task.id, task.ids[key], ORDER)


def _logs(engine: Engine, task: StoredTask, key: str) -> str:
    rows = many(engine, "SELECT text FROM subtask_logs WHERE subtask_id = :id ORDER BY sequence", id=task.ids[key])
    return "".join(row["text"] for row in rows)


def _waits_for(task: StoredTask, key: str, state: str) -> None:
    eventually(lambda: task.states()[key] == state, what=f"{key} is {state}")


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_claimed_with_a_slow_one_and_cancelled_ends_without_it(
    engine: Engine, slots: Slots, *, whole: bool
) -> None:
    """The slow one gives way meanwhile; no main process is there that could tell of the request."""
    task, message = _unit(engine, "quick", "slow", "b", "c")

    def slow(_: Context) -> None:
        assert task.states()["b"] == "RUNNING", "it was not claimed with it"
        _cancel(engine, task, None if whole else "b")
        _waits_for(task, "b", "FAILED")

    called = _run(engine, slots[0], message, {"slow": slow})

    assert called == ["quick", "slow"]
    row, [attempt] = task.row("b"), task.attempts("b")
    assert row["operation"] == "CANCEL"
    assert (attempt["outcome"], attempt["error_type"]) == ("CANCELED", "cancelled")
    assert attempt["started_at"] == attempt["finished_at"]
    assert "before it began" in _logs(engine, task, "b")
    expected = {"quick": "SUCCESSFUL", "slow": "FAILED" if whole else "SUCCESSFUL", "b": "FAILED"}
    assert task.states() == {**expected, "c": "FAILED" if whole else "PENDING"}
    assert task.column("state") == ("REVOKED" if whole else "FAILED")
    assert_invariants(engine)


def test_what_has_ended_behind_a_slow_one_is_recorded_and_can_be_cancelled_no_more(
    engine: Engine, slots: Slots
) -> None:
    task, message = _unit(engine, "quick", "ended", "slow")

    called = _run(engine, slots[0], message, {"slow": lambda _: _waits_for(task, "ended", "SUCCESSFUL")})

    assert called == ["quick", "ended", "slow"]
    assert task.column("state") == "SUCCESSFUL"
    assert_invariants(engine)


def test_what_has_ended_and_is_cancelled_before_its_record_does_not_wait_for_a_slow_one(
    engine: Engine, slots: Slots
) -> None:
    task, message = _unit(engine, "quick", "ended", "slow")

    def slow(_: Context) -> None:
        _cancel(engine, task, "ended")
        _waits_for(task, "ended", "FAILED")

    _run(engine, slots[0], message, {"slow": slow})

    [attempt] = task.attempts("ended")
    assert (attempt["outcome"], attempt["error_type"]) == ("CANCELED", "cancelled")
    assert task.states() == {"quick": "SUCCESSFUL", "ended": "FAILED", "slow": "SUCCESSFUL"}
    assert_invariants(engine)


def test_what_is_asked_to_stop_before_its_turn_is_not_begun_and_the_others_are(
    engine: Engine, slots: Slots, canceler: Canceler
) -> None:
    task, message = _unit(engine, "quick", "a", "b", "c")

    def cancel_b(_: Context) -> None:
        _cancel(engine, task, "b")
        eventually(lambda: slots[0].is_stopping(task.held("b")[0].claim), what="the process is told")

    called = _run(engine, slots[0], message, {"a": cancel_b}, give_way_seconds=GRACE_SECONDS)

    assert called == ["quick", "a", "c"]
    assert task.states() == {"quick": "SUCCESSFUL", "a": "SUCCESSFUL", "b": "FAILED", "c": "SUCCESSFUL"}
    assert "before it began" in _logs(engine, task, "b")
    assert_invariants(engine)


def test_what_waits_behind_a_handler_that_holds_its_process_is_ended_for_it(
    engine: Engine, slots: Slots, canceler: Canceler
) -> None:
    """As where C code holds the interpreter: the process neither gives way nor asks before the handler's end."""
    task, message = _unit(engine, "quick", "a", "b", "c")
    claims: list[int] = []

    def hold(_: Context) -> None:
        claims.append(task.held("b")[0].claim)
        _cancel(engine, task, "b")
        _waits_for(task, "b", "FAILED")
        assert_invariants(engine)

    called = _run(engine, slots[0], message, {"a": hold}, give_way_seconds=GRACE_SECONDS)

    assert called == ["quick", "a", "c"]
    assert task.states() == {"quick": "SUCCESSFUL", "a": "SUCCESSFUL", "b": "FAILED", "c": "SUCCESSFUL"}
    [attempt] = task.attempts("b")
    assert (attempt["claim"], attempt["outcome"], attempt["error_type"]) == (claims[0], "CANCELED", "cancelled")
    assert "before it began" in _logs(engine, task, "b")
    assert_invariants(engine)


def test_what_was_ended_for_its_process_and_runs_again_elsewhere_is_not_begun_there(
    engine: Engine, slots: Slots, canceler: Canceler
) -> None:
    task, message = _unit(engine, "quick", "a", "b")

    def hold(_: Context) -> None:
        _cancel(engine, task, "b")
        _waits_for(task, "b", "FAILED")
        with transaction(engine) as connection:
            retries.retry_subtask(connection, task.id, task.ids["b"], ORDER)
        task.begin("b", process=PROCESS + 1)

    called = _run(engine, slots[0], message, {"a": hold}, give_way_seconds=GRACE_SECONDS)

    assert called == ["quick", "a"]
    assert (task.states()["b"], task.row("b")["process"]) == ("RUNNING", PROCESS + 1)
    assert_invariants(engine)


@pytest.mark.parametrize("gives_way", [True, False])
def test_what_was_cancelled_before_it_began_prohibits_no_rollback_and_is_not_undone(
    engine: Engine, slots: Slots, canceler: Canceler, *, gives_way: bool
) -> None:
    task, message = _unit(engine, "quick", "a", "b", b={"prohibit_rollback": True, "has_rollback": True})

    def cancel_b(_: Context) -> None:
        _cancel(engine, task, "b")
        if gives_way:
            _waits_for(task, "b", "FAILED")
        else:
            eventually(lambda: slots[0].is_stopping(task.held("b")[0].claim), what="the process is told")

    seconds = 0.05 if gives_way else GRACE_SECONDS
    called = _run(engine, slots[0], message, {"a": cancel_b}, give_way_seconds=seconds)
    assert task.row("b")["attempted_at"] is None
    use(task, "rollback")

    assert called == ["quick", "a"]
    assert [one["outcome"] for one in task.attempts("b")] == ["CANCELED"]
    assert task.column("state") == "ROLLED_BACK", "its rollback handler is waited for"
    assert_invariants(engine)


def test_a_running_handler_is_asked_to_stop_and_its_neighbours_are_not(
    engine: Engine, slots: Slots, canceler: Canceler
) -> None:
    task, message = _unit(engine, "a", "b")
    asked: dict[str, bool] = {}

    def wait(ctx: Context) -> None:
        _cancel(engine, task, "a")
        asked["a"] = ctx._cancellation.wait(GRACE_SECONDS)
        ctx.raise_if_cancelled()

    def look(ctx: Context) -> None:
        asked["b"] = ctx.cancelled

    _run(engine, slots[0], message, {"a": wait, "b": look})

    assert asked == {"a": True}
    assert task.states() == {"a": "FAILED", "b": "PENDING"}
    [attempt] = task.attempts("a")
    assert (attempt["outcome"], attempt["error_type"]) == ("CANCELED", "cancelled")
    assert_invariants(engine)


def test_a_request_that_came_before_the_process_told_what_it_holds_is_not_forgotten(
    engine: Engine, slots: Slots, canceler: Canceler
) -> None:
    task, _ = _unit(engine, "a")
    [claimed] = task.claim("a")
    _cancel(engine, task, "a")
    assert canceler.look(), "it must look again soon"
    assert not slots[0].is_stopping(claimed.claim)

    slots[0].hold(claimed.claim)
    eventually(lambda: slots[0].is_stopping(claimed.claim), what="the process is told")
    assert not slots[0].is_asked_to_stop(claimed.claim, claimed.id)

    slots[0].begin(claimed.id, kill_at=NEVER)
    eventually(lambda: slots[0].is_asked_to_stop(claimed.claim, claimed.id), what="the handler is asked")
    assert not slots[0].read().overran


def test_what_others_hold_is_none_of_its_business(engine: Engine, slots: Slots, canceler: Canceler) -> None:
    task, _ = _unit(engine, "a")
    [claimed] = task.claim("a", process=PROCESS + 1)
    _cancel(engine, task, "a")
    slots[0].hold(claimed.claim)
    slots[0].begin(claimed.id, kill_at=NEVER)

    assert not canceler.look()
    assert not slots[0].is_asked_to_stop(claimed.claim, claimed.id)


def test_a_stopped_canceler_has_ended(engine: Engine, slots: Slots) -> None:
    before = set(threading.enumerate())
    canceler = Canceler(engine, slots, grace_seconds=GRACE_SECONDS)
    canceler.start()

    canceler.stop()

    assert set(threading.enumerate()) <= before
