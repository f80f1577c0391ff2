"""One unit for a small graph of quick kinds."""

import pytest

from taskserver.planner import Fragment, PlanNode, Unit
from taskserver.quick import MESSAGE_SECONDS, plan_quick

DIAMOND = [(1, 2), (1, 3), (2, 4), (3, 4)]


def nodes(*ids: int, **changes: PlanNode) -> list[PlanNode]:
    return [changes.get(f"n{one}", PlanNode(one)) for one in ids]


def quick(*ids: int) -> dict[int, float]:
    return dict.fromkeys(ids, 0.0001)


def test_a_quick_diamond_is_one_unit_in_topological_order() -> None:
    fragment = plan_quick(nodes(1, 2, 3, 4), DIAMOND, quick(1, 2, 3, 4))

    assert fragment == Fragment((Unit((1, 2, 3, 4), "default", straight=False),))


def test_a_path_stays_a_straight_run_that_is_not_given_away() -> None:
    fragment = plan_quick(nodes(1, 2, 3), [(1, 2), (2, 3)], quick(1, 2, 3))

    assert fragment == Fragment((Unit((1, 2, 3), "default", straight=True),))


def test_an_unknown_kind_is_planned_with_full_parallelism() -> None:
    assert plan_quick(nodes(1, 2, 3, 4), DIAMOND, quick(1, 2, 3)) is None


def test_work_that_takes_longer_than_its_messages_is_planned_with_full_parallelism() -> None:
    slow = quick(1, 2, 4) | {3: MESSAGE_SECONDS}

    assert plan_quick(nodes(1, 2, 3, 4), DIAMOND, slow) is None


@pytest.mark.parametrize("odd", [PlanNode(3, isolated=True), PlanNode(3, queue="other")])
def test_isolated_subtasks_and_other_queues_are_planned_as_they_are(odd: PlanNode) -> None:
    assert plan_quick(nodes(1, 2, 3, 4, n3=odd), DIAMOND, quick(1, 2, 3, 4)) is None


def test_what_waits_for_something_outside_is_left_with_all_that_follows_it() -> None:
    waiting = nodes(1, 2, 3, 4, 5, n3=PlanNode(3, outside=1))

    fragment = plan_quick(waiting, [*DIAMOND, (1, 5)], quick(1, 2, 3, 4, 5))

    assert fragment == Fragment((Unit((1, 2, 5), "default", straight=False),))


def test_siblings_without_an_edge_are_left_to_the_slices() -> None:
    assert plan_quick(nodes(1, 2, 3), [], quick(1, 2, 3)) is None
