"""Small graphs of kinds that have proved quick: one message for all of it, because a message costs more than the work.

Pure. The unit's subtasks are claimed in order as they become READY, each batch in the transaction that records the one
before. If one of them proves slow after all, the unit gives way, and the dispatcher plans the rest with full parallelism.
"""

import itertools
from collections.abc import Mapping, Sequence

from taskserver.planner import Fragment, PlanNode, Unit

MESSAGE_SECONDS = 0.02  # of expected work in one unit; about what the messages of a small chord cost
RECORD_SECONDS = 0.0001  # of claiming and recording one subtask in bulk


def plan_quick(
    nodes: Sequence[PlanNode], edges: Sequence[tuple[int, int]], seconds: Mapping[int, float]
) -> Fragment | None:
    """Return one unit for everything that does not wait for something outside, if all of that is known to be quick.

    Args:
        nodes: In topological order, by ascending id.
        edges: (upstream id, downstream id) among them.
        seconds: The expected run time by id, where it is known.

    """
    reachable = _not_waiting_outside(nodes, edges)
    if len(reachable) < 2 or not edges:  # noqa: PLR2004 - one alone, or siblings alone, are planned as they are
        return None
    if len({node.queue for node in reachable}) > 1 or any(node.isolated for node in reachable):
        return None
    expected = sum(seconds.get(node.id, MESSAGE_SECONDS) + RECORD_SECONDS for node in reachable)
    if expected > MESSAGE_SECONDS:
        return None
    ids = tuple(node.id for node in reachable)
    return Fragment((Unit(ids, reachable[0].queue, straight=_is_path(ids, edges)),))


def _not_waiting_outside(nodes: Sequence[PlanNode], edges: Sequence[tuple[int, int]]) -> list[PlanNode]:
    waiting = {node.id for node in nodes if node.outside}
    for upstream, downstream in sorted(edges):
        if upstream in waiting:
            waiting.add(downstream)
    return [node for node in nodes if node.id not in waiting]


def _is_path(ids: Sequence[int], edges: Sequence[tuple[int, int]]) -> bool:
    within = set(ids)
    return sorted(edge for edge in edges if set(edge) <= within) == list(itertools.pairwise(ids))
