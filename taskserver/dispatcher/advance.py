"""Advancing tasks: plan what may start and what lies just ahead, mark it released, commit, publish.

Several tasks share one transaction, because most of them have little to release and a transaction costs more.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from schema.carriers import carrier_number
from schema.database import transaction
from schema.identity import SubtaskId, TaskId
from schema.transitions import frontiers, progress, releases
from schema.transitions.frontiers import Frontier, Share, Startable
from schema.transitions.progress import Progress
from taskserver.canvas import Publication
from taskserver.dispatcher.window import Window
from taskserver.planner import SLICE_IDS, Chord, Fragment, PlanNode, Unit, plan
from taskserver.quick import plan_quick

_AHEAD = 1_000
_FRONTIER = 5_000

Publisher = Callable[[Sequence[Publication]], None]


@dataclass(frozen=True, slots=True)
class Advance:
    """What one look at some tasks did: how many units were published, and which full queues held others back."""

    published: int = 0
    full: frozenset[str] = frozenset()


class Advancer:
    """Plans and publishes; safe to run in any number of servers at once."""

    def __init__(self, engine: Engine, publish: Publisher, window: Window, *, executor: str) -> None:
        self._engine = engine
        self._publish = publish
        self._window = window
        self._executor = executor

    def advance(self, tasks: Sequence[TaskId]) -> Advance:
        """Release what may start in the tasks and there is room for, commit, and publish it.

        Args:
            tasks: In the order in which they are served while there is room.

        Raises:
            Unavailable: PostgreSQL is away; nothing was published.
            redis.exceptions.RedisError, kombu.exceptions.OperationalError: The broker is away; what is committed but
                unpublished is found and published later.

        """
        self._window.measure()
        with transaction(self._engine) as connection:
            chosen, full = self._choose(self._load(connection, tasks))
            publications = self._release(connection, chosen)
        self._publish(publications)
        return Advance(sum(len(_head_units(one.fragment)) for one in publications), full)

    def _load(self, connection: Connection, tasks: Sequence[TaskId]) -> list[Frontier]:
        mine = progress.try_dispatch_locks(connection, tasks)
        locked = {one.id: one for one in progress.lock_all(connection, mine)} if mine else {}
        most = min(_FRONTIER, self._window.largest_release * SLICE_IDS)
        ready = [locked[task] for task in mine if task in locked and locked[task].may_start]
        shares = [_share(one, most) for one in ready]
        return frontiers.load_frontiers(connection, shares, ahead=_AHEAD) if shares else []

    def _choose(self, loaded: Sequence[Frontier]) -> tuple[list[tuple[Frontier, Fragment]], frozenset[str]]:
        slots, typical = self._window.slots, self._window.typical_seconds
        left = self._window.room(sorted({node.queue for frontier in loaded for node in frontier.nodes}))
        taken: list[tuple[Frontier, Fragment]] = []
        full: frozenset[str] = frozenset()
        for frontier in loaded:
            chosen, lacking = choose(_startable_fragments(frontier, slots, typical), left)
            taken += [(frontier, fragment) for fragment in chosen]
            full |= lacking
            for queue, count in Counter(unit.queue for one in chosen for unit in _head_units(one)).items():
                left[queue] = max(0, left[queue] - count)
        return taken, full

    def _release(self, connection: Connection, chosen: Sequence[tuple[Frontier, Fragment]]) -> list[Publication]:
        if not chosen:
            return []
        numbers = releases.draw_fragment_numbers(connection, len(chosen))
        carriers = [_carriers(fragment, number) for (_, fragment), number in zip(chosen, numbers, strict=True)]
        carried = [(SubtaskId(one), number) for each in carriers for ids, number in each.items() for one in ids]
        tasks = sorted({frontier.task for frontier, _ in chosen})
        released_at = releases.release(connection, tasks, carried, executor=self._executor)
        nodes: dict[int, Startable] = {node.id: node for frontier, _ in chosen for node in frontier.nodes}
        return [
            Publication(frontier.task, frontier.task_hex, released_at, fragment, each, nodes)
            for (frontier, fragment), each in zip(chosen, carriers, strict=True)
        ]


def _share(locked: Progress, most: int) -> Share:
    limit = most if locked.room is None else min(most, locked.room)
    return Share(locked.id, limit, only_named=locked.only_named)


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
    frontier: Frontier, slots: Mapping[str, int], typical_seconds: Mapping[str, float]
) -> list[Fragment]:
    given = Counter(downstream for _, downstream in frontier.edges)
    plan_nodes = [
        PlanNode(node.id, node.queue, node.isolated, node.pending_upstreams - given[node.id]) for node in frontier.nodes
    ]
    seconds: dict[int, float] = {
        node.id: typical_seconds[node.kind] for node in frontier.nodes if node.kind in typical_seconds
    }
    quick = plan_quick(plan_nodes, frontier.edges, seconds)
    if quick is not None:
        return [quick]
    return [fragment for fragment in plan(plan_nodes, frontier.edges, slots=slots).fragments if fragment.startable]


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
