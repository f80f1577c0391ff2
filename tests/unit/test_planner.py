"""The plan of each named shape, exactly; and that planning is linear."""

import itertools
import random
import time
from collections.abc import Callable, Iterable

import pytest

from taskserver.planner import HEADER_UNITS, MESSAGE_BYTES, Chord, Fragment, PlanNode, Step, Unit, plan, units_of

Edges = list[tuple[int, int]]


def nodes(count: int, **others: PlanNode) -> list[PlanNode]:
    """Ids 1 to count; `_3=PlanNode(3, …)` takes the place of the plain one."""
    return [others.get(f"_{id_}", PlanNode(id_)) for id_ in range(1, count + 1)]


def planned(given: int | list[PlanNode], edges: Iterable[tuple[int, int]], slots: int = 4) -> tuple[Fragment, ...]:
    given = nodes(given) if isinstance(given, int) else given
    return plan(given, edges, slots={"default": slots}).fragments


def run(*ids: int, queue: str = "default") -> Unit:
    return Unit(ids, queue, straight=True)


def part(*ids: int, queue: str = "default") -> Unit:
    return Unit(ids, queue, straight=False)


def chord(*header: Unit, body: Unit) -> Chord:
    return Chord(header, body)


def fragment(*steps: Step, after: tuple[int, ...] = (), outside: int = 0) -> Fragment:
    return Fragment(steps, after, outside)


def fork_join(start: int, width: int) -> Edges:
    """start → width branches → the next id after them."""
    branches = range(start + 1, start + width + 1)
    return [(start, branch) for branch in branches] + [(branch, start + width + 1) for branch in branches]


def line(*ids: int) -> Edges:
    return list(itertools.pairwise(ids))


def bipartite(above: Iterable[int], below: Iterable[int]) -> Edges:
    below = list(below)
    return [(upstream, downstream) for upstream in above for downstream in below]


class TestShapes:
    def test_nothing_left(self) -> None:
        assert planned(0, []) == ()

    def test_single(self) -> None:
        assert planned(1, []) == (fragment(run(1)),)

    def test_straight_path(self) -> None:
        assert planned(4, line(1, 2, 3, 4)) == (fragment(run(1, 2, 3, 4)),)

    def test_diamond(self) -> None:
        assert planned(4, fork_join(1, 2)) == (fragment(run(1), chord(run(2), run(3), body=run(4))),)

    def test_chain_chord_chain_chord(self) -> None:
        edges = [*line(1, 2), *fork_join(2, 2), *line(5, 6), *fork_join(6, 3), *line(10, 11)]

        assert planned(11, edges) == (
            fragment(run(1, 2), chord(run(3), run(4), body=run(5, 6)), chord(run(7), run(8), run(9), body=run(10, 11))),
        )

    def test_fork_join_of_straight_branches(self) -> None:
        edges = [*line(1, 2, 3, 7), *line(1, 4, 5, 7), *line(1, 6, 7)]

        assert planned(7, edges) == (fragment(run(1), chord(run(2, 3), run(4, 5), run(6), body=run(7))),)

    def test_fork_join_that_begins_with_its_branches(self) -> None:
        assert planned(4, [(1, 3), (2, 3), (3, 4)]) == (fragment(chord(run(1), run(2), body=run(3, 4))),)

    def test_n_shape_has_no_barrier(self) -> None:
        assert planned(4, [(1, 3), (1, 4), (2, 4)]) == (
            fragment(run(1), run(3)),
            fragment(run(2)),
            fragment(run(4), after=(0, 1)),
        )

    def test_nested_fork_joins_are_cut_at_the_outer_one(self) -> None:
        edges = [(1, 2), (1, 3), (3, 4), (3, 5), (4, 6), (5, 6), (2, 7), (6, 7)]

        assert planned(7, edges) == (
            fragment(run(1)),
            fragment(run(2), after=(0,)),
            fragment(run(3), chord(run(4), run(5), body=run(6)), after=(0,)),
            fragment(run(7), after=(1, 2)),
        )

    def test_fork_join_beside_a_leaf_is_a_fragment(self) -> None:
        assert planned(5, [(1, 2), (1, 3), (2, 4), (3, 4), (1, 5)]) == (
            fragment(run(1)),
            fragment(chord(run(2), run(3), body=run(4)), after=(0,)),
            fragment(run(5), after=(0,)),
        )

    def test_branch_that_something_else_waits_for_makes_no_chord(self) -> None:
        edges = [(1, 2), (1, 3), (2, 4), (3, 4), (3, 5)]

        assert planned(5, edges) == (
            fragment(run(1)),
            fragment(run(2), after=(0,)),
            fragment(run(3), run(5), after=(0,)),
            fragment(run(4), after=(1, 2)),
        )

    def test_disconnected_parts_are_fragments(self) -> None:
        assert planned(5, [(1, 2), (4, 5)]) == (fragment(run(1, 2)), fragment(run(3)), fragment(run(4, 5)))

    def test_layers_wait_for_each_other_as_slices_and_end_in_a_chord(self) -> None:
        edges = [*bipartite([1, 2, 3], [4, 5, 6]), *bipartite([4, 5, 6], [7])]

        assert planned(7, edges, slots=1) == (
            fragment(run(1)),
            fragment(part(2, 3)),
            fragment(chord(run(4), part(5, 6), body=run(7)), after=(0, 1)),
        )

    def test_redundant_edge_costs_a_fragment_but_no_time(self) -> None:
        assert planned(3, [(1, 2), (2, 3), (1, 3)]) == (fragment(run(1), run(2)), fragment(run(3), after=(0,)))


class TestRuns:
    def test_another_queue_is_another_unit_of_the_same_chain(self) -> None:
        given = nodes(3, _2=PlanNode(2, queue="disk"))

        assert planned(given, line(1, 2, 3)) == (fragment(run(1), run(2, queue="disk"), run(3)),)

    def test_isolated_node_is_a_unit_of_its_own(self) -> None:
        given = nodes(4, _2=PlanNode(2, isolated=True))

        assert planned(given, line(1, 2, 3, 4)) == (fragment(run(1), run(2), run(3, 4)),)

    def test_long_run_is_cut_into_units_of_500(self) -> None:
        (only,) = planned(1100, line(*range(1, 1101)))

        assert only == fragment(run(*range(1, 501)), run(*range(501, 1001)), run(*range(1001, 1101)))

    def test_very_long_run_is_cut_into_fragments_of_a_message_each(self) -> None:
        found = planned(10_000, line(*range(1, 10_001)))

        assert [len(one.steps) for one in found] == [7, 7, 6]
        assert [one.after for one in found] == [(), (0,), (1,)]
        assert sum(unit.wire_bytes for unit in found[0].steps if isinstance(unit, Unit)) <= MESSAGE_BYTES

    def test_branch_of_two_units_makes_no_chord(self) -> None:
        given = nodes(5, _3=PlanNode(3, isolated=True))

        assert planned(given, [(1, 2), (2, 3), (3, 5), (1, 4), (4, 5)]) == (
            fragment(run(1)),
            fragment(run(2), run(3), after=(0,)),
            fragment(run(4), after=(0,)),
            fragment(run(5), after=(1, 2)),
        )


class TestSlices:
    @pytest.mark.parametrize(
        ("width", "slots", "sizes"),
        [
            (3, 4, [1, 1, 1]),
            (4, 4, [1, 1, 1, 1]),
            (5, 4, [1, 1, 1, 1, 1]),
            (9, 4, [1, 1, 1, 1, 1, 1, 1, 2]),
            (10, 1, [5, 5]),
            (10, 0, [5, 5]),
            (250, 1, [125, 125]),
            (251, 1, [83, 84, 84]),
            (1000, 1, [125] * 8),
        ],
    )
    def test_siblings_are_packed_evenly_for_the_slots(self, width: int, slots: int, sizes: list[int]) -> None:
        units = [unit for one in planned(width, [], slots=slots) for step in one.steps for unit in units_of(step)]

        assert [len(unit.ids) for unit in units] == sizes
        assert [id_ for unit in units for id_ in unit.ids] == list(range(1, width + 1))

    def test_queue_without_live_slots_counts_as_one(self) -> None:
        found = plan([PlanNode(id_, queue="new") for id_ in range(1, 5)], [], slots={"default": 40}).fragments

        assert found == (fragment(part(1, 2, queue="new")), fragment(part(3, 4, queue="new")))

    def test_branches_of_a_chord_are_packed_by_queue(self) -> None:
        given = nodes(8, _3=PlanNode(3, queue="disk"), _5=PlanNode(5, isolated=True))

        assert planned(given, fork_join(1, 6), slots=1) == (
            fragment(run(1), chord(part(2, 4), run(3, queue="disk"), run(5), part(6, 7), body=run(8))),
        )

    def test_no_step_follows_a_slice_because_it_would_wait_for_all_of_it(self) -> None:
        given = nodes(4, _4=PlanNode(4, queue="disk"))

        assert planned(given, [(3, 4)], slots=1) == (
            fragment(run(1)),
            fragment(part(2, 3)),
            fragment(run(4, queue="disk"), after=(1,)),
        )

    def test_slices_keep_the_order_of_the_ids_whatever_waits_for_them(self) -> None:
        found = planned(7, [(1, 6), (5, 6), (4, 5), (4, 7)], slots=1)

        assert found[:2] == (fragment(part(1, 2)), fragment(part(3, 4)))

    def test_isolated_siblings_are_not_packed(self) -> None:
        given = [PlanNode(id_, isolated=True) for id_ in range(1, 11)]

        assert planned(given, [], slots=1) == tuple(fragment(run(id_)) for id_ in range(1, 11))


class TestWideFanOut:
    def test_widest_chord(self) -> None:
        (only,) = planned(34, fork_join(1, 32), slots=32)

        assert only == fragment(run(1), chord(*(run(id_) for id_ in range(2, 34)), body=run(34)))

    def test_one_unit_more_ends_the_fragment(self) -> None:
        first, *slices, join = planned(36, [*fork_join(1, 33), (35, 36)], slots=33)

        assert first == fragment(run(1))
        assert slices == [fragment(run(id_), after=(0,)) for id_ in range(2, HEADER_UNITS + 3)]
        assert join == fragment(run(35, 36), after=tuple(range(1, 34)))

    def test_thousands_of_siblings_become_slices_and_a_later_join(self) -> None:
        first, *slices, join = planned(10_002, fork_join(1, 10_000))

        assert first == fragment(run(1))
        assert [len(one.steps[0].ids) for one in slices if isinstance(one.steps[0], Unit)] == [125] * 80
        assert join == fragment(run(10_002), after=tuple(range(1, 81)))

    def test_header_too_long_for_the_message_before_it_begins_a_fragment(self) -> None:
        first, second = planned(4002, fork_join(1, 4000))

        assert first == fragment(run(1))
        assert second.after == (0,)
        assert [len(units_of(step)) for step in second.steps] == [33]

    def test_complete_bipartite_is_slices_after_slices(self) -> None:
        found = planned(600, bipartite(range(1, 301), range(301, 601)), slots=1)

        assert [len(units_of(one.steps[0])[0].ids) for one in found] == [100] * 6
        assert [one.after for one in found] == [()] * 3 + [(0, 1, 2)] * 3


class TestOutside:
    def test_node_that_also_waits_outside_begins_a_fragment(self) -> None:
        given = nodes(3, _2=PlanNode(2, outside=1))

        found = planned(given, line(1, 2, 3))

        assert found == (fragment(run(1)), fragment(run(2, 3), after=(0,), outside=1))
        assert [one.startable for one in found] == [True, False]

    def test_nothing_given_before_it_still_leaves_it_not_startable(self) -> None:
        (only,) = planned([PlanNode(1, outside=2)], [])

        assert only == fragment(run(1), outside=2)
        assert not only.startable

    def test_siblings_that_wait_outside_are_not_packed(self) -> None:
        given = [PlanNode(id_, outside=1) for id_ in range(1, 4)]

        assert planned(given, [], slots=1) == tuple(fragment(run(id_), outside=1) for id_ in range(1, 4))

    def test_join_that_waits_outside_is_no_chord(self) -> None:
        given = nodes(4, _4=PlanNode(4, outside=1))

        assert planned(given, fork_join(1, 2)) == (
            fragment(run(1)),
            fragment(run(2), after=(0,)),
            fragment(run(3), after=(0,)),
            fragment(run(4), after=(1, 2), outside=1),
        )

    def test_branch_that_waits_outside_makes_no_chord(self) -> None:
        given = nodes(4, _2=PlanNode(2, outside=1))

        assert planned(given, fork_join(1, 2)) == (
            fragment(run(1), run(3)),
            fragment(run(2), after=(0,), outside=1),
            fragment(run(4), after=(0, 1)),
        )


class TestWrongInput:
    @pytest.mark.parametrize("ids", [(2, 1), (1, 1)])
    def test_ids_must_ascend(self, ids: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="ascend"):
            planned([PlanNode(id_) for id_ in ids], [])

    @pytest.mark.parametrize("edge", [(2, 1), (1, 1), (1, 9), (9, 1)])
    def test_edge_must_lead_down_between_given_nodes(self, edge: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=f"edge {edge[0]} → {edge[1]}"):
            planned(2, [edge])


def wide(count: int) -> Edges:
    return fork_join(1, count - 2)


def deep(count: int) -> Edges:
    return line(*range(1, count + 1))


def layered(count: int) -> Edges:
    width = 10
    starts = range(1, count - 2 * width, width)
    return [edge for at in starts for edge in bipartite(range(at, at + width), range(at + width, at + 2 * width))]


def sparse(count: int) -> Edges:
    dice = random.Random(count)
    return [(dice.randrange(1, below), below) for below in range(2, count + 1) for _ in range(2)]


@pytest.mark.parametrize("shape", [wide, deep, layered, sparse])
def test_planning_is_linear(shape: Callable[[int], Edges]) -> None:
    def seconds(count: int) -> float:
        given, edges = nodes(count), shape(count)
        began = time.process_time()
        planned(given, edges)
        return time.process_time() - began

    small, large = min(seconds(10_000) for _ in range(3)), seconds(100_000)

    assert large < 5
    assert large < 40 * max(small, 0.01)
