"""What may have run when its worker died counts as begun, although it is not charged: a rollback undoes it, or is refused."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from schema.errors import RollbackProhibited
from schema.transitions.rescues import Seen
from tests.factories import StoredTask, make_task
from tests.invariants import assert_invariants
from tests.operators import refused, use

KEYS = {"ended": (), "seen": (), "waiting": (), "failing": ()}
UNDONE_BY_HANDLERS = {key: {"has_rollback": True} for key in KEYS}


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def lose_worker(task: StoredTask, *, witnessed: bool) -> None:
    """Let a worker die in the second of the three that one claim of its took; then the task fails."""
    held = task.begin("ended", "seen", "waiting")
    task.run("failing", verdict="FAILED")
    task.rescue(held[0].claim, seen=Seen(task.ids["seen"]) if witnessed else None)
    assert task.column("state") == "FAILED"


def undone(task: StoredTask) -> set[str]:
    return {key for key in task.ids if any(one["operation"] == "ROLLBACK" for one in task.attempts(key))}


@pytest.mark.parametrize("witnessed", [True, False])
def test_a_rollback_undoes_what_may_have_run_before_its_worker_died(engine: Engine, witnessed: bool) -> None:
    task = make_task(engine, KEYS, UNDONE_BY_HANDLERS)
    lose_worker(task, witnessed=witnessed)

    use(task, "rollback")
    for key in task.frontier(only_named=True):
        task.run(key)

    assert task.column("state") == "ROLLED_BACK"
    assert undone(task) == {"ended", "seen", "failing"} | (set() if witnessed else {"waiting"})


@pytest.mark.parametrize("witnessed", [True, False])
def test_what_may_have_run_and_must_not_be_undone_prohibits_the_rollback(engine: Engine, witnessed: bool) -> None:
    task = make_task(engine, KEYS, {"ended": {"prohibit_rollback": True}})
    lose_worker(task, witnessed=witnessed)

    with refused(engine, RollbackProhibited) as caught:
        use(task, "rollback")

    assert caught.value.target == "ended"


def test_what_had_not_begun_when_its_worker_died_does_not_prohibit_the_rollback(engine: Engine) -> None:
    task = make_task(engine, KEYS, {"waiting": {"prohibit_rollback": True}})
    lose_worker(task, witnessed=True)

    use(task, "rollback")

    assert task.column("state") == "ROLLED_BACK"


def test_what_may_have_run_stays_begun_when_it_is_taken_and_handed_back_again(engine: Engine) -> None:
    task = make_task(engine, KEYS)
    held = task.begin("ended", "seen")
    task.rescue(held[0].claim, seen=Seen(task.ids["seen"]))
    first = task.row("ended")["attempted_at"]
    [claimed] = task.begin("ended")
    task.hand_back("ended", claim=claimed.claim)
    [claimed] = task.begin("ended")
    task.decline("ended", claim=claimed.claim)

    row = task.row("ended")

    assert row["attempt"] == 0
    assert first is not None
    assert row["attempted_at"] == first


def test_what_was_only_claimed_has_not_begun(engine: Engine) -> None:
    task = make_task(engine, {"first": (), "second": ()})
    held = task.begin("first", "second")

    task.rescue(held[0].claim, seen=Seen(task.ids["first"]))

    assert task.row("second")["attempted_at"] is None
