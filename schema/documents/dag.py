"""The graph of one submission, as a value over the keys that users wrote.

Owns the checks that make a list of subtasks a DAG, its topological order, and the question whether one subtask is
upstream of another. It knows nothing of ids, states or queues, and does no I/O. Everything here is iterative and linear
in subtasks plus edges (the order pays a logarithm): graphs reach 100,000 subtasks and 1,000,000 edges.
"""

import difflib
import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from schema.errors import InvalidGraph

CYCLE_KEYS_SHOWN = 20  # a longer cycle is shown by its beginning and its return
CLOSEST_KEY_CHARS = 200  # difflib is quadratic in length; no key that a person wrote is longer


@dataclass(frozen=True)
class Dag:
    """A checked graph: positions are places in `keys`, which stands in the order in which it was written."""

    keys: tuple[str, ...]
    upstreams: tuple[tuple[int, ...], ...]  # by position; each upstream once
    order: tuple[int, ...]  # positions, upstreams first, else as written
    _places: dict[str, int] = field(repr=False, compare=False)

    @classmethod
    def build(cls, subtasks: Iterable[tuple[str, Iterable[str]]]) -> "Dag":
        """Check (key, upstream keys) pairs and make them a graph.

        Raises:
            InvalidGraph: It is empty, repeats a key, names an unknown upstream, or has a cycle.
        """
        written = [(key, tuple(dict.fromkeys(upstreams))) for key, upstreams in subtasks]
        if not written:
            raise InvalidGraph("the task has no subtasks; give at least one")
        places = _places(key for key, _ in written)
        upstreams = tuple(_positions(key, names, places) for key, names in written)
        keys = tuple(places)
        return cls(keys=keys, upstreams=upstreams, order=_topological(keys, upstreams), _places=places)

    @property
    def edge_count(self) -> int:
        """How many edges there are, each counted once."""
        return sum(map(len, self.upstreams))

    def edges(self) -> Iterator[tuple[str, str]]:
        """Yield (upstream key, downstream key), downstreams in topological order."""
        for position in self.order:
            for upstream in self.upstreams[position]:
                yield self.keys[upstream], self.keys[position]

    def is_upstream(self, upstream: str, downstream: str) -> bool:
        """Say whether a path leads from `upstream` to `downstream`; a subtask is not its own upstream.

        Raises:
            KeyError: One of the keys is not in the graph.
        """
        source, target = self._places[upstream], self._places[downstream]
        return source != target and self._reachability.leads(source, target)

    @cached_property
    def _reachability(self) -> "_Reachability":
        return _Reachability(self.upstreams, self.order)


class _Reachability:
    """Three numbers per node, taken in one depth-first walk, that answer most questions without a search.

    `v` lies in the walk's tree below `u` when their [begin, end] spans nest: then a path is certain. All that `u` leads to
    has its `end` and `low` (the least `end` below it, over every edge) inside the bounds of `u`: else there is no path.
    What neither settles is searched backwards, cut by the same two tests. (After GRAIL, Yildirim et al., VLDB 2010.)
    """

    def __init__(self, upstreams: tuple[tuple[int, ...], ...], order: tuple[int, ...]) -> None:
        self._upstreams = upstreams
        self._downstreams = _downstreams(upstreams)
        self._begin = [-1] * len(upstreams)
        self._end = [-1] * len(upstreams)
        self._low = [-1] * len(upstreams)
        self._clock = itertools.count()
        for root in order:
            if self._begin[root] < 0:
                self._walk(root)

    def leads(self, source: int, target: int) -> bool:
        if self._surely_leads(source, target):
            return True
        seen = {target}
        waiting = [target] if self._may_lead(source, target) else []
        while waiting:
            for upstream in self._upstreams[waiting.pop()]:
                if self._surely_leads(source, upstream):
                    return True
                if upstream not in seen and self._may_lead(source, upstream):
                    seen.add(upstream)
                    waiting.append(upstream)
        return False

    def _surely_leads(self, source: int, target: int) -> bool:
        return self._begin[source] <= self._begin[target] and self._end[target] <= self._end[source]

    def _may_lead(self, source: int, target: int) -> bool:
        return self._low[source] <= self._low[target] and self._end[target] <= self._end[source]

    def _walk(self, root: int) -> None:
        path = [self._enter(root)]
        while path:
            node, rest = path[-1]
            following = next((other for other in rest if self._begin[other] < 0), None)
            if following is not None:
                path.append(self._enter(following))
            else:
                path.pop()
                self._leave(node)

    def _enter(self, node: int) -> tuple[int, Iterator[int]]:
        self._begin[node] = next(self._clock)
        return node, iter(self._downstreams[node])

    def _leave(self, node: int) -> None:
        self._end[node] = next(self._clock)
        self._low[node] = min((self._low[other] for other in self._downstreams[node]), default=self._end[node])


def _places(keys: Iterable[str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for position, key in enumerate(keys):
        if places.setdefault(key, position) != position:
            raise InvalidGraph(f"subtask key {key!r} is used twice; give each subtask its own key", target=key)
    return places


def _positions(key: str, upstreams: tuple[str, ...], places: dict[str, int]) -> tuple[int, ...]:
    for upstream in upstreams:
        if upstream not in places:
            raise InvalidGraph(_unknown_upstream(key, upstream, places), target=key)
        if upstream == key:
            raise InvalidGraph(
                f"subtask {key!r} names itself as its upstream; remove it from its upstreams", target=key
            )
    return tuple(places[upstream] for upstream in upstreams)


def _unknown_upstream(key: str, upstream: str, places: dict[str, int]) -> str:
    wanted = upstream[:CLOSEST_KEY_CHARS]
    candidates = (known for known in places if known != key and len(known) <= CLOSEST_KEY_CHARS)
    closest = difflib.get_close_matches(wanted, candidates, n=1)
    cure = (
        f"did you mean {closest[0]!r}?" if closest else "no key resembles it; add that subtask or remove the upstream"
    )
    return f"subtask {key!r} names the upstream {wanted!r}, which is no subtask of this task; {cure}"


def _downstreams(upstreams: tuple[tuple[int, ...], ...]) -> list[list[int]]:
    downstreams: list[list[int]] = [[] for _ in upstreams]
    for position, above in enumerate(upstreams):
        for upstream in above:
            downstreams[upstream].append(position)
    return downstreams


def _topological(keys: tuple[str, ...], upstreams: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Order by Kahn, always taking what was written first among what may come next."""
    downstreams = _downstreams(upstreams)
    missing = [len(above) for above in upstreams]
    free = [position for position, count in enumerate(missing) if not count]  # ascending, hence already a heap
    order: list[int] = []
    while free:
        position = heapq.heappop(free)
        order.append(position)
        for downstream in downstreams[position]:
            missing[downstream] -= 1
            if not missing[downstream]:
                heapq.heappush(free, downstream)
    if len(order) < len(keys):
        cycle = [keys[position] for position in _cycle(upstreams, missing)]
        raise InvalidGraph(
            f"the subtasks wait for each other: {_path(cycle)}; remove one of these upstreams", target=cycle[0]
        )
    return tuple(order)


def _cycle(upstreams: tuple[tuple[int, ...], ...], missing: list[int]) -> list[int]:
    """Walk upstream among the nodes that never became free, until one comes again."""
    position = next(position for position, count in enumerate(missing) if count)
    trail: dict[int, None] = {}
    while position not in trail:
        trail[position] = None
        position = next(upstream for upstream in upstreams[position] if missing[upstream])
    walked = list(trail)
    cycle = walked[walked.index(position) :][::-1]
    first = cycle.index(min(cycle))
    return cycle[first:] + cycle[:first]


def _path(cycle: list[str]) -> str:
    shown = cycle
    if len(cycle) > CYCLE_KEYS_SHOWN:
        shown = [*cycle[: CYCLE_KEYS_SHOWN - 1], f"({len(cycle) - CYCLE_KEYS_SHOWN} more)", cycle[-1]]
    return " → ".join([*shown, cycle[0]])
