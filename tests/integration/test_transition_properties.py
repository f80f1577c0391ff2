"""Random graphs, random interleavings, random faults: every promise holds after every step, and all ends in the end."""

import pytest
from sqlalchemy import Engine

from tests.factories import many
from tests.invariants import violations
from tests.simulation import World

STEPS = 60
CALM_ROUNDS = 60


@pytest.mark.parametrize("seed", range(10))
def test_promises_hold_after_every_step_and_every_task_settles(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(engine, seed, monkeypatch)
    for _ in range(3):
        world.submit()

    for _ in range(STEPS):
        world.step()
        broken = violations(engine)
        assert not broken, (world.story[-12:], broken)

    for _ in range(CALM_ROUNDS):
        if not _unsettled(engine):
            break
        world.calm_down()
    assert _unsettled(engine) == []
    assert violations(engine) == []
    assert _unaccounted(engine) == []


def _unsettled(engine: Engine) -> list[tuple[int, str]]:
    query = "SELECT id, state FROM tasks WHERE finalized_at IS NULL ORDER BY id"
    return [(row["id"], row["state"]) for row in many(engine, query)]


def _unaccounted(engine: Engine) -> list[object]:
    """Return subtasks of SUCCESSFUL tasks that have not ended, and of others that are neither ended nor held back."""
    query = """
        SELECT s.id, s.state, t.state AS task FROM subtasks s JOIN tasks t ON t.id = s.task_id
        WHERE (t.state = 'SUCCESSFUL' AND s.state NOT IN ('SUCCESSFUL', 'FAILED'))
            OR s.state NOT IN ('SUCCESSFUL', 'FAILED', 'PENDING')
    """
    return [dict(row) for row in many(engine, query)]
