"""Whatever the graph: each subtask once, no barrier that the graph does not have, every size within its limit."""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from taskserver.planner import (
    HEADER_UNITS,
    MESSAGE_BYTES,
    RUN_IDS,
    SLICE_IDS,
    Chord,
    Fragment,
    Plan,
    PlanNode,
    Step,
    Unit,
    plan,
    units_of,
)


@dataclass(frozen=True)
class Case:
    nodes: tuple[PlanNode, ...]
    edges: tuple[tuple[int, int], ...]
    slots: dict[str, int]
    seconds: dict[int, int]  # how long each node runs: uneven, so that a barrier between equal levels shows too
    outside_ends: dict[int, int]  # when what lies outside of the graph ends

    def plan(self) -> Plan:
        return plan(self.nodes, self.edges, slots=self.slots)

    def upstreams(self) -> dict[int, set[int]]:
        above: dict[int, set[int]] = {node.id: set() for node in self.nodes}
        for upstream, downstream in self.edges:
            above[downstream].add(upstream)
        return above


class Builder:
    """Nodes numbered in topological order as parts are laid one after another."""

    def __init__(self) -> None:
        self.count = 0
        self.edges: list[tuple[int, int]] = []

    def lay(self, shape: object, heads_after: list[int]) -> list[int]:
        match shape:
            case ("serial", *parts):
                for part in parts:
                    heads_after = self.lay(part, heads_after)
                return heads_after
            case ("joined", *parts):
                return self.lay(("serial", *(two for part in parts for two in (part, ("long", 1)))), heads_after)
            case ("parallel", *parts):
                return [tail for part in parts for tail in self.lay(part, heads_after)]
            case ("wide", int(width)):
                return [self.node(heads_after) for _ in range(width)]
            case ("long", int(length)):
                for _ in range(length):
                    heads_after = [self.node(heads_after)]
                return heads_after
        raise AssertionError(shape)

    def node(self, upstreams: list[int]) -> int:
        self.count += 1
        self.edges.extend((upstream, self.count * 10) for upstream in upstreams)
        return self.count * 10


def composed(leaf: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Fork-joins, nested ones, layers, chains, disconnected parts: all are series and parallels of leaves."""
    return st.recursive(
        leaf,
        lambda parts: st.builds(
            lambda word, some: (word, *some),
            st.sampled_from(("joined", "parallel", "serial")),
            st.lists(parts, min_size=1, max_size=4),
        ),
        max_leaves=6,
    )


def joined(parts: list[object]) -> object:
    return ("joined", *parts)


def lengths_and_widths(longest: int, widest: int) -> st.SearchStrategy[object]:
    long = st.integers(1, longest).map(lambda length: ("long", length))
    wide = st.integers(2, widest).map(lambda width: ("wide", width))
    fork_joins = st.lists(st.one_of(wide, long), min_size=1, max_size=4).map(joined)
    return st.one_of(wide, long, fork_joins)


SMALL = lengths_and_widths(4, 6)
LARGE = lengths_and_widths(1300, 200)


@st.composite
def composed_graphs(draw: st.DrawFn, leaf: st.SearchStrategy[object]) -> tuple[list[int], list[tuple[int, int]]]:
    builder = Builder()
    shape = draw(composed(leaf))
    builder.lay(shape, [])
    if len(builder.edges) > 20_000:
        return [10], []
    ids = [number * 10 for number in range(1, builder.count + 1)]
    pairs = st.tuples(st.sampled_from(ids), st.sampled_from(ids)).filter(lambda pair: pair[0] < pair[1])
    extra = draw(st.lists(pairs, max_size=2)) if len(ids) > 1 else []
    return ids, list(dict.fromkeys([*builder.edges, *extra]))


@st.composite
def random_graphs(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int]]]:
    ids = [number * 10 for number in range(1, draw(st.integers(1, 12)) + 1)]
    possible = list(itertools.combinations(ids, 2))
    return ids, draw(st.lists(st.sampled_from(possible), unique=True, max_size=24)) if possible else []


@st.composite
def cases(draw: st.DrawFn, graphs: st.SearchStrategy[tuple[list[int], list[tuple[int, int]]]]) -> Case:
    ids, edges = draw(graphs)
    random = Random(draw(st.integers(0, 2**32)))  # a draw per node would be most of the running time
    odd = draw(st.sampled_from((0.0, 0.0, 0.03, 0.3)))  # the share of nodes that are not like the others

    def node(id_: int) -> PlanNode:
        return PlanNode(
            id_,
            queue="other" if random.random() < odd else "default",
            isolated=random.random() < odd,
            outside=random.randint(1, 3) if random.random() < odd else 0,
        )

    nodes = tuple(node(id_) for id_ in ids)
    return Case(
        nodes=nodes,
        edges=tuple(edges),
        slots=draw(st.dictionaries(st.sampled_from(("default", "other")), st.sampled_from((0, 1, 2, 5, 40)))),
        seconds={id_: random.randint(1, 9) for id_ in ids},
        outside_ends={node.id: random.randint(1, 50) for node in nodes if node.outside},
    )


ANY = cases(st.one_of(composed_graphs(SMALL), random_graphs()))
ANY_LARGE = cases(composed_graphs(LARGE))
MANY_STEPS = cases(composed_graphs(st.lists(lengths_and_widths(700, 12), min_size=20, max_size=40).map(joined)))
some = settings(max_examples=25)


class Simulation:
    """Unbounded workers run the plan as Celery would; a fragment starts when the upstreams of its head have ended."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.upstreams = case.upstreams()
        self.started: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        for fragment in case.plan().fragments:
            self.run_fragment(fragment)

    def run_fragment(self, fragment: Fragment) -> None:
        first = fragment.steps[0]
        heads = [self.heads(unit) for unit in (first.header if isinstance(first, Chord) else (first,))]
        now = max(self.may_start(id_) for id_ in itertools.chain(*heads))
        for step in fragment.steps:
            now = self.run_step(step, now)

    def heads(self, unit: Unit) -> tuple[int, ...]:
        return unit.ids[:1] if unit.straight else unit.ids

    def may_start(self, id_: int) -> int:
        ends = [self.ended[upstream] for upstream in self.upstreams[id_]]
        return max([*ends, self.case.outside_ends.get(id_, 0)])

    def run_step(self, step: Step, now: int) -> int:
        if isinstance(step, Chord):
            return self.run_unit(step.body, max(self.run_unit(unit, now) for unit in step.header))
        return self.run_unit(step, now)

    def run_unit(self, unit: Unit, now: int) -> int:
        """A slice is split among idle slots as it runs; a straight run goes one by one."""
        for id_ in unit.ids:
            self.started[id_] = now
            self.ended[id_] = now + self.case.seconds[id_]
            now = self.ended[id_] if unit.straight else now
        return max(self.ended[id_] for id_ in unit.ids)


def earliest_starts(case: Case) -> dict[int, int]:
    """The longest path to each node."""
    upstreams = case.upstreams()
    starts: dict[int, int] = {}
    for node in case.nodes:
        ends = [starts[upstream] + case.seconds[upstream] for upstream in upstreams[node.id]]
        starts[node.id] = max([*ends, case.outside_ends.get(node.id, 0)])
    return starts


def all_units(found: Plan) -> list[Unit]:
    return [unit for fragment in found.fragments for step in fragment.steps for unit in units_of(step)]


@given(ANY)
def test_every_node_is_in_exactly_one_unit(case: Case) -> None:
    ids = [id_ for unit in all_units(case.plan()) for id_ in unit.ids]

    assert sorted(ids) == [node.id for node in case.nodes]


@given(ANY)
def test_every_node_starts_as_early_as_the_graph_allows(case: Case) -> None:
    assert Simulation(case).started == earliest_starts(case)


@given(ANY)
def test_a_step_behind_another_waits_for_nothing_else(case: Case) -> None:
    upstreams = case.upstreams()
    outside = {node.id for node in case.nodes if node.outside}

    for fragment in case.plan().fragments:
        for before, step in itertools.pairwise(fragment.steps):
            last = before.body if isinstance(before, Chord) else before
            assert last.straight
            for unit in step.header if isinstance(step, Chord) else (step,):
                assert not outside & set(unit.ids)
                assert all(upstreams[id_] == {last.ids[-1]} for id_ in (unit.ids[:1] if unit.straight else unit.ids))


@given(ANY)
def test_a_chord_has_a_join_that_waits_for_its_whole_header_and_nothing_else(case: Case) -> None:
    upstreams = case.upstreams()
    outside = {node.id for node in case.nodes if node.outside}

    for step in (step for fragment in case.plan().fragments for step in fragment.steps if isinstance(step, Chord)):
        tails = {id_ for unit in step.header for id_ in (unit.ids[-1:] if unit.straight else unit.ids)}
        heads = {id_ for unit in step.header for id_ in (unit.ids[:1] if unit.straight else unit.ids)}
        assert upstreams[step.body.ids[0]] == tails
        assert len({frozenset(upstreams[id_]) for id_ in heads}) == 1
        assert not outside & {step.body.ids[0], *heads}


@given(ANY)
def test_units_hold_paths_or_siblings_of_one_queue_and_isolated_nodes_stay_alone(case: Case) -> None:
    upstreams = case.upstreams()
    nodes = {node.id: node for node in case.nodes}

    for unit in all_units(case.plan()):
        if unit.straight:
            assert all(upstreams[after] == {before} for before, after in itertools.pairwise(unit.ids))
        else:
            assert len({frozenset(upstreams[id_]) for id_ in unit.ids}) == 1
            assert not any(nodes[id_].outside for id_ in unit.ids)
        assert {nodes[id_].queue for id_ in unit.ids} == {unit.queue}
        assert len(unit.ids) == 1 or not any(nodes[id_].isolated for id_ in unit.ids)


@given(ANY)
def test_neighbours_on_a_straight_path_share_a_unit(case: Case) -> None:
    upstreams = case.upstreams()
    downstreams: dict[int, set[int]] = defaultdict(set)
    for upstream, downstream in case.edges:
        downstreams[upstream].add(downstream)
    nodes = {node.id: node for node in case.nodes}
    unit_of = {id_: unit for unit in all_units(case.plan()) for id_ in unit.ids}

    for upstream, downstream in case.edges:
        before, after = nodes[upstream], nodes[downstream]
        alike = before.queue == after.queue and not (before.isolated or after.isolated or after.outside)
        alone = upstreams[downstream] == {upstream} and downstreams[upstream] == {downstream}
        if alike and alone and len(unit_of[upstream].ids) < RUN_IDS:
            assert unit_of[upstream] is unit_of[downstream]


@some
@given(ANY_LARGE)
def test_sizes_stay_within_their_limits(case: Case) -> None:
    found = case.plan()

    for unit in all_units(found):
        assert len(unit.ids) <= (RUN_IDS if unit.straight else SLICE_IDS)
    for step in (step for fragment in found.fragments for step in fragment.steps if isinstance(step, Chord)):
        assert 2 <= len(step.header) <= HEADER_UNITS


def signature_bytes(unit: Unit) -> int:
    return 700 + 16 * len(unit.ids)


def step_bytes(step: Step) -> int:
    return sum(map(signature_bytes, units_of(step))) + (700 if isinstance(step, Chord) else 0)


def message_bytes(steps: tuple[Step, ...]) -> list[int]:
    """Each message of a chain embeds all that follows it; a header's message embeds the body, not the other headers."""
    following = sum(map(step_bytes, steps[1:]))
    match steps[0]:
        case Chord(header, body):
            bodies = signature_bytes(body) + following
            return [bodies, *(signature_bytes(unit) + bodies for unit in header)]
        case unit:
            return [signature_bytes(unit) + following]


@some
@given(st.one_of(MANY_STEPS, ANY_LARGE))
def test_no_message_is_larger_than_the_limit(case: Case) -> None:
    for fragment in case.plan().fragments:
        for index in range(len(fragment.steps)):
            assert max(message_bytes(fragment.steps[index:])) <= MESSAGE_BYTES


@given(ANY)
def test_after_names_the_fragments_of_the_upstreams_of_the_head_and_only_earlier_ones(case: Case) -> None:
    upstreams = case.upstreams()
    found = case.plan()
    fragment_of = {
        id_: index
        for index, fragment in enumerate(found.fragments)
        for step in fragment.steps
        for unit in units_of(step)
        for id_ in unit.ids
    }

    for index, fragment in enumerate(found.fragments):
        head = units_of(fragment.steps[0])[0].ids[0]
        assert set(fragment.after) == {fragment_of[upstream] for upstream in upstreams[head]}
        assert list(fragment.after) == sorted(set(fragment.after))
        assert all(earlier < index for earlier in fragment.after)


@given(ANY)
def test_a_fragment_is_startable_when_its_head_waits_for_nothing(case: Case) -> None:
    upstreams = case.upstreams()
    nodes = {node.id: node for node in case.nodes}

    for fragment in case.plan().fragments:
        head = units_of(fragment.steps[0])[0].ids[0]
        assert fragment.startable == (not upstreams[head] and not nodes[head].outside)


@given(ANY)
def test_the_order_of_the_edges_and_their_repetition_change_nothing(case: Case) -> None:
    again = plan(case.nodes, [*reversed(case.edges), *case.edges], slots=case.slots)

    assert again == case.plan()
