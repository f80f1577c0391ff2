"""Cuts what is left of a graph into units, chords and fragments: what one Celery message, chord and chain will carry.

Pure, deterministic, and linear in nodes plus edges. The invariant: a plan has no barrier that the graph does not have. A
slice holds only nodes that become startable at the same moment, a straight run only a path; a chord stands only where the
join waits for its whole header and the branches for the same nodes; a step follows another only where it waits for exactly
that step's last node. All else is cut at fragment edges, which the database joins.

`Fragment.after` names the fragments in which the head's upstreams are. The fragment may start when those upstreams have
ended, which can be long before the named fragments have.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from schema.wire import DEFAULT_QUEUE

MESSAGE_BYTES = 64 * 1024  # design: no message above 64 KB
# On the wire, where kombu writes base64; measured on Celery 5.7: 510, 460 and 16 (an id of ten digits).
ENVELOPE_BYTES = 2_000
UNIT_BYTES = 700
ID_BYTES = 16
RUN_IDS = 500  # of a straight run in one unit
SLICE_IDS = 125  # of a fan-out in one unit
HEADER_UNITS = 32  # design: a wider fan-out is not a Celery chord
SLICES_PER_SLOT = 2  # so that the slots end together although slices differ


@dataclass(frozen=True, slots=True)
class PlanNode:
    """A subtask that has not ended; `outside` counts the unfinished upstreams that are not among the given nodes."""

    id: int
    queue: str = DEFAULT_QUEUE
    isolated: bool = False
    outside: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """Subtasks for one worker: a path in order (also a single one), or, not `straight`, a slice of a fan-out in any order."""

    ids: tuple[int, ...]
    queue: str
    straight: bool

    @property
    def wire_bytes(self) -> int:
        """About what its signature takes in a message."""
        return UNIT_BYTES + ID_BYTES * len(self.ids)

    @property
    def first_wire_bytes(self) -> int:
        """The same: a unit's own message holds it once."""
        return self.wire_bytes


@dataclass(frozen=True, slots=True)
class Chord:
    """Units that may run at the same time, and the one that waits for all of them."""

    header: tuple[Unit, ...]
    body: Unit

    @property
    def wire_bytes(self) -> int:
        """About what it takes in the message of a step before it."""
        return UNIT_BYTES + sum(unit.wire_bytes for unit in self.header) + self.body.wire_bytes

    @property
    def first_wire_bytes(self) -> int:
        """About what the largest of its own messages takes: a header's message carries the body, not the other headers."""
        return UNIT_BYTES + max(unit.wire_bytes for unit in self.header) + self.body.wire_bytes


Step = Unit | Chord


def units_of(step: Step) -> tuple[Unit, ...]:
    """Return the units of a step, a chord's body last."""
    return (*step.header, step.body) if isinstance(step, Chord) else (step,)


@dataclass(frozen=True, slots=True)
class Fragment:
    """One Celery chain; `after` are the indices of the fragments that its head waits for, always smaller than its own."""

    steps: tuple[Step, ...]
    after: tuple[int, ...] = ()
    outside: int = 0  # unfinished upstreams of its head that the planner was not given

    @property
    def head(self) -> int:
        """The first id; whatever else is at the beginning waits for the same nodes."""
        return units_of(self.steps[0])[0].ids[0]

    @property
    def startable(self) -> bool:
        """Whether its head waits for nothing."""
        return not self.after and not self.outside


@dataclass(frozen=True, slots=True)
class Plan:
    """All fragments, each after those it waits for."""

    fragments: tuple[Fragment, ...]


def plan(nodes: Sequence[PlanNode], edges: Iterable[tuple[int, int]], *, slots: Mapping[str, int]) -> Plan:
    """Plan nodes whose ids ascend in topological order, with (upstream id, downstream id) edges; `slots` are live ones by queue.

    Raises:
        ValueError: The ids do not ascend, or an edge names a node that is not given or does not ascend.
    """
    graph = _Graph(nodes, edges)
    return _Planner(graph, slots).plan()


class _Graph:
    """The nodes with their edges, joined to straight runs, and the runs to groups that become startable together."""

    def __init__(self, nodes: Sequence[PlanNode], edges: Iterable[tuple[int, int]]) -> None:
        self.nodes = {node.id: node for node in nodes}
        if list(self.nodes) != sorted(node.id for node in nodes):
            raise ValueError("node ids must be unique and ascend in topological order")
        self.upstreams, self.downstreams = self._neighbours(edges)
        self.runs = self._straight_runs()
        self.groups, self.followers = self._sibling_groups()

    def _neighbours(self, edges: Iterable[tuple[int, int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        below: dict[int, list[int]] = {id_: [] for id_ in self.nodes}
        for upstream, downstream in edges:
            if upstream not in below or downstream not in below or upstream >= downstream:
                raise ValueError(f"edge {upstream} → {downstream} must lead between two given nodes, to the greater id")
            below[upstream].append(downstream)
        above: dict[int, list[int]] = {id_: [] for id_ in self.nodes}
        for upstream, downstreams in below.items():
            below[upstream] = list(dict.fromkeys(downstreams))
            for downstream in below[upstream]:
                above[downstream].append(upstream)  # ascending, because the outer loop is
        return above, below

    def _straight_runs(self) -> dict[int, Unit]:
        """Return maximal runs by their first id; what is left of one too long begins a run of its own."""
        members: dict[int, list[int]] = {}
        run_of: dict[int, list[int]] = {}
        for id_ in self.nodes:
            above = self.upstreams[id_]
            run = run_of[above[0]] if len(above) == 1 and self._goes_on(above[0], id_) else []
            if not run or len(run) == RUN_IDS:
                run = members[id_] = []
            run.append(id_)
            run_of[id_] = run
        return {head: Unit(tuple(ids), self.nodes[head].queue, straight=True) for head, ids in members.items()}

    def _goes_on(self, upstream: int, downstream: int) -> bool:
        before, after = self.nodes[upstream], self.nodes[downstream]
        return (
            self.downstreams[upstream] == [downstream]
            and before.queue == after.queue
            and not (before.isolated or after.isolated or after.outside)
        )

    def _sibling_groups(self) -> tuple[list[list[Unit]], dict[int, list[Unit]]]:
        """Group runs by what their heads wait for; index by id the groups that wait for exactly that one node."""
        groups: list[list[Unit]] = []
        by_upstreams: dict[tuple[int, ...], list[Unit]] = {}
        for head, run in self.runs.items():
            if self.nodes[head].outside:
                groups.append([run])  # what it waits for is not known, so nothing is known to start with it
                continue
            upstreams = tuple(self.upstreams[head])
            if upstreams not in by_upstreams:
                groups.append(by_upstreams.setdefault(upstreams, []))
            by_upstreams[upstreams].append(run)
        return groups, {upstreams[0]: group for upstreams, group in by_upstreams.items() if len(upstreams) == 1}

    def fork_joins(self, group: Sequence[Unit]) -> Iterator[tuple[list[Unit], Unit | None]]:
        """Split siblings into the branches of each fork-join, with the run that begins at its join, and the rest."""
        by_join: dict[int, list[Unit]] = defaultdict(list)
        rest: list[Unit] = []
        for run in group:
            match self.downstreams[run.ids[-1]]:
                case [join]:
                    by_join[join].append(run)
                case _:
                    rest.append(run)
        for join, branches in by_join.items():
            if self._joins(join, branches):
                yield branches, self.runs[join]
            else:
                rest.extend(branches)
        if rest:
            yield sorted(rest, key=_first_id), None

    def _joins(self, join: int, branches: Sequence[Unit]) -> bool:
        return 1 < len(branches) == len(self.upstreams[join]) and not self.nodes[join].outside


class _Planner:
    """Walks the groups in order and lays each, with all that may follow it in the same chain, into fragments."""

    def __init__(self, graph: _Graph, slots: Mapping[str, int]) -> None:
        self._graph = graph
        self._slots = slots
        self._fragments: list[Fragment] = []
        self._fragment_of: dict[int, int] = {}

    def plan(self) -> Plan:
        """Lay every group that no earlier chain has taken in."""
        for group in self._graph.groups:
            if _first_id(group[0]) not in self._fragment_of:
                self._lay(group)
        return Plan(tuple(self._fragments))

    def _lay(self, group: Sequence[Unit]) -> None:
        for branches, join in self._graph.fork_joins(group):
            units = self._pack(branches)
            if join is not None and len(units) <= HEADER_UNITS:
                self._grow(Chord(units, join))
            else:
                for unit in units:
                    self._grow(unit)

    def _grow(self, step: Step | None) -> None:
        """Lay a chain that begins with the step, cut where its first message would become too long."""
        steps: list[Step] = []
        size = ENVELOPE_BYTES
        while step is not None:
            if steps and size + step.wire_bytes > MESSAGE_BYTES:
                self._finish(steps)
                steps, size = [], ENVELOPE_BYTES
            size += step.wire_bytes if steps else step.first_wire_bytes
            steps.append(step)
            step = self._next(step)
        self._finish(steps)

    def _next(self, step: Step) -> Step | None:
        last = step.body if isinstance(step, Chord) else step
        group = self._graph.followers.get(last.ids[-1]) if last.straight else None
        match list(self._graph.fork_joins(group or [])):
            case [([run], None)]:
                return run
            case [(branches, Unit() as join)]:
                units = self._pack(branches)
                return Chord(units, join) if len(units) <= HEADER_UNITS else None
            case _:
                return None

    def _finish(self, steps: Sequence[Step]) -> None:
        head = _first_id(units_of(steps[0])[0])
        after = {self._fragment_of[upstream] for upstream in self._graph.upstreams[head]}
        for step in steps:
            for unit in units_of(step):
                self._fragment_of.update(dict.fromkeys(unit.ids, len(self._fragments)))
        self._fragments.append(Fragment(tuple(steps), tuple(sorted(after)), self._graph.nodes[head].outside))

    def _pack(self, branches: Iterable[Unit]) -> tuple[Unit, ...]:
        """Pack single nodes into slices by queue; a run, or an isolated node, stays a unit of its own."""
        units: list[Unit] = []
        singles: dict[str, list[int]] = defaultdict(list)
        for run in branches:
            if len(run.ids) > 1 or self._graph.nodes[run.ids[0]].isolated:
                units.append(run)
            else:
                singles[run.queue].append(run.ids[0])
        for queue, ids in singles.items():
            units.extend(_slices(ids, queue, max(1, self._slots.get(queue, 1))))
        return tuple(sorted(units, key=_first_id))


def _slices(ids: Sequence[int], queue: str, slots: int) -> Iterator[Unit]:
    width = len(ids)
    count = width if width <= slots else min(width, max(SLICES_PER_SLOT * slots, math.ceil(width / SLICE_IDS)))
    for index in range(count):
        part = tuple(ids[index * width // count : (index + 1) * width // count])
        yield Unit(part, queue, straight=len(part) == 1)


def _first_id(unit: Unit) -> int:
    return unit.ids[0]
