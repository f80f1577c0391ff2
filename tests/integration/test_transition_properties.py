"""Random graphs, random interleavings, random faults and verbs: every promise holds after every step, and all ends well.

`HYPOTHESIS_PROFILE=explore` (`make chaos`) tells far more stories; `--hypothesis-seed=N` tells the story N alone.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Engine

from tests.factories import execute, make_task, many
from tests.invariants import Watch
from tests.operators import AFTER, use
from tests.reused_database import _EMPTY
from tests.simulation import World

STEPS = 120
CALM_ROUNDS = 60
MENDS = 40
STORIES = 15
MORE_STORIES = 400
# In all the stories that every run tells: seldom enough that a change of the product hardly makes one of them too few.
LEAST_TAKEN = {"abandon task": 1, "cancel subtask": 4, "cancel task": 5, "retry task": 5, "rollback task": 10}
LEAST_TAKEN |= {"retry subtask": 8, "skip subtask": 10, "pause task": 8, "resume task": 8}
LEAST_REFUSED = 40
# The story of a seed, told in a process of its own.
_TELL = """
import json, pytest, sys
from schema.database import make_engine
from tests.simulation import World

engine = make_engine(sys.argv[1], name="tests")
with pytest.MonkeyPatch.context() as patch:
    world = World(engine, int(sys.argv[2]), patch)
    for _ in range(3):
        world.submit()
    for _ in range(60):
        world.step()
print(json.dumps(world.story))
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", _seeds(metafunc.config))


def _seeds(config: pytest.Config) -> range:
    only = config.getoption("hypothesis_seed", default=None)
    if only is not None and str(only).isdecimal():
        return range(int(only), int(only) + 1)
    return range(STORIES if settings.default.derandomize else MORE_STORIES)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    """Return the worlds of the stories told so far."""
    return []


def test_promises_hold_after_every_step_and_every_task_settles(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch, worlds: list[World]
) -> None:
    worlds.append(tell(engine, seed, monkeypatch))


def test_operators_have_used_every_verb_often_and_been_refused_often(worlds: list[World]) -> None:
    if len(worlds) < STORIES:
        pytest.skip(f"only {len(worlds)} stories were told")

    taken = sum((world.taken for world in worlds), Counter[str]())
    refused = sum((world.refused for world in worlds), Counter[str]())

    assert set(LEAST_TAKEN) == set(AFTER)
    assert {verb: taken[verb] for verb, least in LEAST_TAKEN.items() if taken[verb] < least} == {}
    assert refused.total() >= LEAST_REFUSED
    assert set(refused) == set(AFTER)


def test_a_seed_tells_the_same_story_whatever_the_order_of_sets(engine: Engine, database_url: str) -> None:
    stories = []
    for hash_seed in ("1", "2"):
        execute(engine, _EMPTY)
        told = subprocess.run(
            [sys.executable, "-c", _TELL, database_url, "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            check=True,
            timeout=60,
        )
        stories.append(json.loads(told.stdout))

    assert stories[0] == stories[1]
    assert len(stories[0]) > 60


class TestWatch:
    """The watch sees what no single snapshot tells."""

    @pytest.fixture
    def watch(self, engine: Engine) -> Watch:
        return Watch(engine)

    def test_a_task_that_leaves_failed_by_no_verb_is_seen(self, engine: Engine, watch: Watch) -> None:
        task = make_task(engine, {"a": ()})
        task.run("a", verdict="FAILED")
        assert watch.violations() == []

        execute(engine, "UPDATE subtasks SET state = 'SUCCESSFUL', operation = 'SKIP'")
        execute(engine, "UPDATE task_progress SET failed = 0, successful = 1, change_number = change_number + 1")
        execute(engine, "UPDATE tasks SET state = 'RUNNING', operation = 'RETRY', error = NULL, finalized_at = NULL")

        assert any("settled is settled" in broken for broken in watch.violations())

    @pytest.mark.parametrize("verb", ["retry", "skip"])
    def test_a_verb_that_is_not_recorded_is_seen(self, engine: Engine, watch: Watch, verb: str) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        task.run("a", verdict="FAILED")
        assert watch.violations() == []

        use(task, verb, "a")
        execute(engine, "DELETE FROM operations")

        assert any("settled is settled" in broken for broken in watch.violations())

    def test_a_verb_that_is_recorded_is_no_harm(self, engine: Engine, watch: Watch) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        task.run("a", verdict="FAILED")
        assert watch.violations() == []

        use(task, "retry", "a")

        assert watch.violations() == []

    def test_history_that_is_lost_or_changed_is_seen(self, engine: Engine, watch: Watch) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
        task.run("a", verdict="RETRY")
        use(task, "pause")
        assert watch.violations() == []

        execute(engine, "UPDATE operations SET principal = 'another'")
        execute(engine, "UPDATE subtask_attempts SET error_message = 'another'")
        assert sum("history cannot be forgotten" in broken for broken in watch.violations()) == 2
        execute(engine, "DELETE FROM operations")

        assert any("history cannot be forgotten" in broken for broken in watch.violations())

    def test_a_change_that_is_not_counted_is_seen(self, engine: Engine, watch: Watch) -> None:
        make_task(engine, {"a": ()})
        assert watch.violations() == []

        execute(engine, "UPDATE subtasks SET generation = generation + 1")

        assert any("what changes counts" in broken for broken in watch.violations())


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
        if world.mend() is None:
            break
        _settle(world, watch)
    assert many(engine, "SELECT id FROM tasks WHERE state = 'FAILED'") == []
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


def _unaccounted(engine: Engine) -> list[object]:
    """Return subtasks of SUCCESSFUL tasks that have not ended, and of others that are neither ended nor held back."""
    query = """
        SELECT s.id, s.state, t.state AS task FROM subtasks s JOIN tasks t ON t.id = s.task_id
        WHERE (t.state = 'SUCCESSFUL' AND s.state NOT IN ('SUCCESSFUL', 'FAILED'))
            OR s.state NOT IN ('SUCCESSFUL', 'FAILED', 'PENDING')
    """
    return [dict(row) for row in many(engine, query)]
