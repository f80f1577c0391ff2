"""Revokes from remote control: each id is tried, the workers that come second find it done, and the main loop waits for no row."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from schema.identity import subtask_hex
from tests.eventually import eventually
from tests.factories import StoredTask, make_task
from tests.invariants import assert_invariants
from tests.operators import audit, expire, use
from workers.revoker import Revocation, Revoker


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


@pytest.fixture
def revokers(engine: Engine) -> Iterator[list[Revoker]]:
    """Return those of three workers."""
    revokers = [Revoker(engine) for _ in range(3)]
    for one in revokers:
        one.start()
    yield revokers
    for one in revokers:
        one.stop()


@pytest.fixture
def revoker(revokers: list[Revoker]) -> Revoker:
    return revokers[0]


def _hex(task: StoredTask, series: int | None = None) -> str:
    whole = str(task.column("task_id"))
    return whole if series is None else subtask_hex(whole, series)


def _running(engine: Engine) -> StoredTask:
    task = make_task(engine, {"a": ()})
    task.begin("a")
    return task


def _outcome(revocation: Revocation | None) -> tuple[list[str], dict[str, str]]:
    assert revocation is not None
    return revocation.done, revocation.refused


def test_each_id_is_tried_whatever_became_of_the_one_before_it(engine: Engine, revoker: Revoker) -> None:
    ended, running, other = make_task(engine, {"a": ()}), _running(engine), _running(engine)
    ended.run("a")
    unknown = "ab" * 16

    done, refused = _outcome(
        revoker.revoke([_hex(ended), _hex(running), unknown, _hex(other, 0), _hex(other, 0)], actor="flower")
    )

    assert done == [_hex(running), _hex(other, 0)]
    assert list(refused) == [_hex(ended), unknown]
    assert "is SUCCESSFUL: cancel needs" in refused[_hex(ended)]
    assert "no task or subtask has the id" in refused[unknown]
    assert (running.states(), other.states()) == ({"a": "CANCELING"}, {"a": "CANCELING"})


@pytest.mark.parametrize("series", [None, 0])
def test_of_many_workers_one_does_it_and_to_the_others_it_is_done(
    engine: Engine, revokers: list[Revoker], series: int | None
) -> None:
    task = _running(engine)
    wanted = _hex(task, series)

    with ThreadPoolExecutor(len(revokers)) as pool:
        outcomes = list(pool.map(lambda one: _outcome(one.revoke([wanted], actor="flower")), revokers))

    assert outcomes == [([wanted], {})] * len(revokers)
    assert [(row["verb"], row["principal"]) for row in audit(task)] == [("cancel", "flower")]


@pytest.mark.parametrize("series", [None, 0])
def test_what_has_stopped_since_is_done(engine: Engine, revoker: Revoker, series: int | None) -> None:
    task = _running(engine)
    wanted = _hex(task, series)
    revoker.revoke([wanted], actor="flower")
    task.record(task.held("a"), "FAILED", claim=task.row("a")["claim"])
    assert task.states() == {"a": "FAILED"}

    assert _outcome(revoker.revoke([wanted], actor="flower")) == ([wanted], {})
    assert len(audit(task)) == 1


def test_what_failed_or_expired_by_itself_was_not_revoked(engine: Engine, revoker: Revoker) -> None:
    failed, expired = make_task(engine, {"a": ()}), make_task(engine, {"a": ()})
    failed.run("a", verdict="FAILED")
    expire(expired)

    done, refused = _outcome(revoker.revoke([_hex(failed), _hex(failed, 0), _hex(expired)], actor="flower"))

    assert (done, len(refused)) == ([], 3)


def test_what_failed_and_is_retried_after_a_cancel_can_be_revoked_anew(engine: Engine, revoker: Revoker) -> None:
    task = _running(engine)
    revoker.revoke([_hex(task, 0)], actor="flower")
    task.record(task.held("a"), "FAILED", claim=task.row("a")["claim"])
    use(task, "retry", "a")
    task.begin("a")

    assert _outcome(revoker.revoke([_hex(task, 0)], actor="flower")) == ([_hex(task, 0)], {})
    assert task.states() == {"a": "CANCELING"}


def test_a_held_task_holds_up_nobody_and_is_cancelled_once_it_is_free(engine: Engine, revoker: Revoker) -> None:
    held, free = _running(engine), _running(engine)

    with held.locked():
        taken = [revoker.revoke([_hex(one)], actor="flower") for one in (held, free)]

    assert taken == [None, None]
    eventually(lambda: [one.row("a")["state"] for one in (held, free)] == ["CANCELING"] * 2)
    assert _outcome(revoker.revoke([_hex(held)], actor="flower")) == ([_hex(held)], {})


def test_it_stops_although_a_row_is_held(engine: Engine) -> None:
    task = _running(engine)
    revoker = Revoker(engine)
    revoker.start()

    with task.locked():
        revoker.revoke([_hex(task)], actor="flower")
        revoker.stop()
        assert task.row("a")["state"] == "RUNNING"
    eventually(lambda: task.row("a")["state"] == "CANCELING")
