"""A handler that was killed at its timeout is tried again as one that stopped by itself would be: as its kind says."""

import pytest
from sqlalchemy import Engine

from schema.transitions.rescues import Seen
from tests.factories import make_task
from tests.invariants import assert_invariants

FINAL = frozenset({"test.final"})
_OPTIONS = {"max_attempts": 3, "timeout": 30.0}


@pytest.mark.parametrize(("kind", "state"), [("test.final", "FAILED"), ("test.kind", "PENDING")])
def test_a_kill_at_the_timeout_is_followed_by_another_attempt_only_where_the_kind_retries_timeouts(
    engine: Engine, kind: str, state: str
) -> None:
    task = make_task(engine, {"a": ()}, {"a": {**_OPTIONS, "kind": kind}})
    [claimed] = task.begin("a")

    task.rescue(claimed.claim, seen=Seen(claimed.id, timed_out=True, final_timeouts=FINAL))

    row, [attempt] = task.row("a"), task.attempts("a")
    assert (row["state"], row["failures"], row["scheduled_at"] is None) == (state, 1, state == "FAILED")
    assert (attempt["outcome"], attempt["error_type"]) == ("FAILED", "timeout")
    assert_invariants(engine)


def test_a_process_that_died_by_itself_is_no_timeout(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {**_OPTIONS, "kind": "test.final"}})
    [claimed] = task.begin("a")

    task.rescue(claimed.claim, seen=Seen(claimed.id, final_timeouts=FINAL))

    assert task.states() == {"a": "PENDING"}
    assert [one["outcome"] for one in task.attempts("a")] == ["LOST"]
