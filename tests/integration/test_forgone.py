"""The record of an attempt whose handler was never called: it ends what it ends, and has not begun."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.errors import RollbackProhibited
from schema.transitions import unbegun
from schema.transitions.rescues import Seen
from tests.factories import PROCESS, StoredTask, make_task
from tests.invariants import assert_invariants
from tests.operators import use

_UNDOABLE = {"has_rollback": True, "prohibit_rollback": True}


def _forgo(task: StoredTask, key: str) -> None:
    """Claim it, and end it as a worker does that learns of a cancel before its turn."""
    claimed = task.begin(key)
    use(task, "cancel", key)
    task.record(claimed, "FAILED", begun=False)


def _end_for_its_process(task: StoredTask, key: str) -> None:
    """Claim it, and end it as the main process does where a handler before it holds the interpreter."""
    [claimed] = task.begin(key)
    use(task, "cancel", key)
    with transaction(task.engine) as connection:
        ids = unbegun.end_unbegun(connection, task.id, [claimed.id], claim=claimed.claim, process=PROCESS, carrier=0)
    assert ids == [claimed.id]


def _lose(task: StoredTask, key: str) -> None:
    """Claim it, and let the process die that was seen to have begun nothing."""
    [claimed] = task.begin(key)
    use(task, "cancel", key)
    task.rescue(claimed.claim, seen=Seen(None))


@pytest.mark.parametrize("end", [_forgo, _end_for_its_process, _lose])
def test_what_was_never_begun_failed_without_a_beginning(
    engine: Engine, end: Callable[[StoredTask, str], None]
) -> None:
    task = make_task(engine, {"a": ()}, {"a": _UNDOABLE})

    end(task, "a")

    row, [attempt] = task.row("a"), task.attempts("a")
    assert (row["state"], row["operation"], row["attempted_at"]) == ("FAILED", "CANCEL", None)
    assert attempt["outcome"] == "CANCELED"
    use(task, "rollback")
    assert task.column("state") == "ROLLED_BACK"
    assert_invariants(engine)


def test_what_had_begun_before_has_begun_although_its_last_attempt_never_did(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": _UNDOABLE})
    task.run("a", verdict="FAILED")
    began = task.row("a")["attempted_at"]
    use(task, "retry", "a")

    _forgo(task, "a")

    assert task.row("a")["attempted_at"] == began
    with pytest.raises(RollbackProhibited):
        use(task, "rollback")


def test_what_begins_after_all_has_begun_then(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": _UNDOABLE})
    _forgo(task, "a")
    use(task, "retry", "a")

    [claimed] = task.begin("a")
    task.record([claimed])

    assert task.row("a")["attempted_at"] == claimed.claimed_at
    assert_invariants(engine)


def test_a_step_of_a_rollback_that_was_never_begun_is_still_to_be_done(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"has_rollback": True}})
    task.run("a", verdict="FAILED")
    use(task, "rollback")

    _forgo(task, "a")

    assert task.column("state") == "FAILED"
    use(task, "rollback")
    assert (task.column("state"), task.frontier()) == ("RUNNING", ["a"])
    assert_invariants(engine)


def test_what_a_dead_process_had_begun_and_was_asked_to_stop_has_begun(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": _UNDOABLE})
    [claimed] = task.begin("a")
    use(task, "cancel", "a")

    task.rescue(claimed.claim, seen=Seen(claimed.id))

    assert (task.states(), task.row("a")["attempted_at"]) == ({"a": "FAILED"}, claimed.claimed_at)
