"""Advancing one task: plan what may start and what lies just ahead, mark it released, commit, publish."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from celery import Celery
from sqlalchemy import Connection, Engine

from schema.carriers import carrier_number
from schema.database import transaction
from schema.identity import SubtaskId, TaskId
from schema.transitions import progress, releases
from schema.transitions.releases import Startable
from taskserver import canvas
from taskserver.canvas import Publication
from taskserver.dispatcher.window import Window
from taskserver.planner import Chord, Fragment, PlanNode, Unit, plan
from taskserver.quick import plan_quick

_AHEAD = 1_000
_FRONTIER = 5_000


@dataclass(frozen=True, slots=True)
class Advance:
    """What one look at a task did: how many units were published, and which full queues held others back."""

    published: int = 0
    full: frozenset[str] = frozenset()


class Advancer:
    """Plans and publishes one task at a time; safe to run in any number of servers at once."""

    def __init__(self, engine: Engine, app: Celery, window: Window, *, executor: str) -> None:
        self._engine = engine
        self._app = app
        self._window = window
        self._executor = executor

    def advance(self, task: TaskId) -> Advance:
        """Release what may start in the task and there is room for, commit, and publish it.

        Raises:
            Unavailable: PostgreSQL is away; nothing was published.
            redis.exceptions.RedisError, kombu.exceptions.OperationalError: The broker is away; what is committed but
                unpublished is found and published later.

        """
        self._window.measure()
        slots, typical = self._window.slots, self._window.typical_seconds
        with transaction(self._engine) as connection:
            if not progress.try_dispatch_lock(connection, task):
                return Advance()
            locked = progress.lock(connection, task)
            if not locked.open or not locked.startable:
                return Advance()
            nodes, edges = self._frontier(connection, locked)
            if not nodes:
                return Advance()
            room = self._window.room({node.queue for node in nodes})
            chosen, full = choose(_startable_fragments(nodes, edges, slots, typical), room)
            publications = self._release(connection, task, chosen, nodes)
        canvas.publish(self._app, publications)
        return Advance(sum(len(_head_units(one.fragment)) for one in publications), full)

    def _frontier(
        self, connection: Connection, locked: progress.Progress
    ) -> tuple[list[Startable], list[tuple[int, int]]]:
        limit = _FRONTIER if locked.room is None else min(_FRONTIER, locked.room)
        return releases.load_frontier(connection, locked.id, only_named=locked.is_failing, limit=limit, ahead=_AHEAD)

    def _release(
        self, connection: Connection, task: TaskId, chosen: Sequence[Fragment], nodes: Sequence[Startable]
    ) -> list[Publication]:
        if not chosen:
            return []
        task_hex, numbers = releases.draw_fragment_numbers(connection, task, len(chosen))
        carriers = [_carriers(fragment, number) for fragment, number in zip(chosen, numbers, strict=True)]
        carried = [(SubtaskId(one), number) for each in carriers for ids, number in each.items() for one in ids]
        released_at = releases.release(connection, task, carried, executor=self._executor)
        by_id: dict[int, Startable] = {node.id: node for node in nodes}
        return [
            Publication(task, task_hex, released_at, fragment, each, by_id)
            for fragment, each in zip(chosen, carriers, strict=True)
        ]


def choose(fragments: Sequence[Fragment], room: Mapping[str, int]) -> tuple[list[Fragment], frozenset[str]]:
    """Take fragments in order while their queues have room for their first units; return them and the full queues."""
    left = dict(room)
    chosen = []
    full: set[str] = set()
    for fragment in fragments:
        needed = Counter(unit.queue for unit in _head_units(fragment))
        lacking = {queue for queue, count in needed.items() if left.get(queue, 0) < _least(count, room.get(queue, 0))}
        full |= lacking
        if not lacking:
            chosen.append(fragment)
            for queue, count in needed.items():
                left[queue] = max(0, left[queue] - count)
    return chosen, frozenset(full)


def _least(count: int, room: int) -> int:
    """Return how much room a head of that width needs: one wider than the window goes when half of it is free."""
    return min(count, math.ceil(room / 2) or 1)


def _startable_fragments(
    nodes: Sequence[Startable],
    edges: Sequence[tuple[int, int]],
    slots: Mapping[str, int],
    typical_seconds: Mapping[str, float],
) -> list[Fragment]:
    given = Counter(downstream for _, downstream in edges)
    plan_nodes = [
        PlanNode(node.id, node.queue, node.isolated, node.pending_upstreams - given[node.id]) for node in nodes
    ]
    seconds: dict[int, float] = {node.id: typical_seconds[node.kind] for node in nodes if node.kind in typical_seconds}
    quick = plan_quick(plan_nodes, edges, seconds)
    if quick is not None:
        return [quick]
    return [fragment for fragment in plan(plan_nodes, edges, slots=slots).fragments if fragment.startable]


def _head_units(fragment: Fragment) -> tuple[Unit, ...]:
    first = fragment.steps[0]
    return first.header if isinstance(first, Chord) else (first,)


def _carriers(fragment: Fragment, number: int) -> dict[tuple[int, ...], int]:
    """Number the units: a chord's body is a step of its own, so that it follows its header."""
    carriers: dict[tuple[int, ...], int] = {}
    position = 0
    for step in fragment.steps:
        stages = (step.header, (step.body,)) if isinstance(step, Chord) else ((step,),)
        for stage in stages:
            for place, unit in enumerate(stage):
                carriers[unit.ids] = carrier_number(number, position, place)
            position += 1
    return carriers
