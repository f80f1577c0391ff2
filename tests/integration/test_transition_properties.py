"""Random graphs, random interleavings, random faults: every promise holds after every step, and all ends in the end."""

import pytest
from sqlalchemy import Engine

from tests.factories import many
from tests.invariants import Watch
from tests.simulation import World

STEPS = 120
CALM_ROUNDS = 60
MENDS = 40
SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_promises_hold_after_every_step_and_every_task_settles(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(engine, seed, monkeypatch)


def tell(engine: Engine, seed: int, patch: pytest.MonkeyPatch) -> World:
    """Tell a story to its end, and check every promise after every step."""
    world, watch = World(engine, seed, patch), Watch(engine)
    for _ in range(3):
        world.submit()

    for _ in range(STEPS):
        world.step()
        _check(world, watch)
    _settle(world, watch)
    for _ in range(MENDS):
        if not world.mend():
            break
        _settle(world, watch)
    assert _unmended(engine) == []
    return world


def _check(world: World, watch: Watch) -> None:
    broken = watch.violations()
    assert not broken, (world.story[-20:], broken)


def _settle(world: World, watch: Watch) -> None:
    """Let everything end that can, now that nothing breaks any more."""
    for _ in range(CALM_ROUNDS):
        if not _unsettled(world.engine):
            break
        world.calm_down()
    assert _unsettled(world.engine) == []
    assert _unaccounted(world.engine) == []
    _check(world, watch)


def _unsettled(engine: Engine) -> list[tuple[int, str]]:
    query = "SELECT id, state FROM tasks WHERE finalized_at IS NULL ORDER BY id"
    return [(row["id"], row["state"]) for row in many(engine, query)]


def _unmended(engine: Engine) -> list[object]:
    return [row["id"] for row in many(engine, "SELECT id FROM tasks WHERE state = 'FAILED'")]


def _unaccounted(engine: Engine) -> list[object]:
    """Return subtasks of SUCCESSFUL tasks that have not ended, and of others that are neither ended nor held back."""
    query = """
        SELECT s.id, s.state, t.state AS task FROM subtasks s JOIN tasks t ON t.id = s.task_id
        WHERE (t.state = 'SUCCESSFUL' AND s.state NOT IN ('SUCCESSFUL', 'FAILED'))
            OR s.state NOT IN ('SUCCESSFUL', 'FAILED', 'PENDING')
    """
    return [dict(row) for row in many(engine, query)]
