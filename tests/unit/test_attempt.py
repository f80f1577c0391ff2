"""One attempt in a pool process."""

import os
from datetime import UTC, datetime

import pytest

from schema.identity import SubtaskId
from schema.settings import Settings
from schema.transitions.claims import Claimed
from workers.attempt import AttemptRunner, Inputs
from workers.log_sink import LogFlusher
from workers.registry import Registry
from workers.slots import NEVER, Slots

CLAIMED = Claimed(
    id=SubtaskId(5),
    claim=12,
    operation="EXECUTE",
    attempt=1,
    failures=0,
    generation=0,
    series_id=0,
    parallel_idx=0,
    key="a",
    kind="test.kind",
    arguments=None,
    from_keys=(),
    timeout=None,
    max_attempts=1,
    backoff_seconds=1.0,
    claimed_at=datetime.now(UTC),
)


@pytest.mark.parametrize("asked", [True, False])
def test_who_is_asked_to_stop_as_the_attempt_begins_never_begins(*, asked: bool) -> None:
    called: list[str] = []
    registry = Registry()

    @registry.subtask("test.kind")
    def handle() -> None:
        called.append("once")

    slot = Slots(1)[0]
    slot.take_over(process=1, pid=os.getpid())
    slot.hold(CLAIMED.claim)
    slot.ask_to_stop(CLAIMED.claim if asked else 0, CLAIMED.id, by=NEVER)
    runner = AttemptRunner(registry, LogFlusher(lambda _: None), Settings())

    finished = runner.run(CLAIMED, Inputs(), clock=0.0, slot=slot)

    assert called == ([] if asked else ["once"])
    assert finished.outcome.begun is not asked
    assert (finished.outcome.verdict, finished.outcome.error_type) == (
        ("FAILED", "cancelled") if asked else ("SUCCESSFUL", None)
    )
    assert not slot.read().kill_at, "a handler is still at work"
