"""Shows a plan as a document: nested chains and chords of keys, and a Mermaid flowchart of the same.

Owns only the presentation. Fragments that are published together are shown as the one thing they are: a fan-out too wide for
a Celery chord, joined by the database, is a chord here too, and siblings that the same fragments wait for are a group. The
flowchart grows coarser with size, so that a graph of 100,000 subtasks can still be looked at.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from taskserver.planner import Chord, Fragment, Plan, Step, Unit, units_of

Edge = tuple[int, int]

MERMAID_NODES = 500
MERMAID_EDGES = 500  # Mermaid's own default limit, as is the next
MERMAID_CHARS = 50_000
LABEL_CHARS = 40
_PLAIN = frozenset(" _.-/:,=+@()[]")  # beside letters and digits, what means nothing inside a quoted label


@dataclass(frozen=True, slots=True)
class _Group:
    """Units of sibling fragments that have no join of their own."""

    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class _Shown:
    """A fragment as it is shown: it may stand for several, and its chord may be wider than Celery's."""

    steps: tuple[Step | _Group, ...]
    after: tuple[int, ...]

    @property
    def units(self) -> list[Unit]:
        return [unit for step in self.steps for unit in (step.units if isinstance(step, _Group) else units_of(step))]

    @property
    def ids(self) -> list[int]:
        return [id_ for unit in self.units for id_ in unit.ids]


def plan_document(plan: Plan, keys: Mapping[int, str], edges: Iterable[Edge]) -> dict[str, object]:
    """Return the contract's plan document; `edges` are those that were planned, `keys` name each id."""
    edges = list(dict.fromkeys(edges))
    shown = _shown(plan.fragments, edges)
    return {
        "fragments": [
            {"id": number, "after": list(one.after), "canvas": _canvas(one.steps, keys)}
            for number, one in enumerate(shown)
        ],
        "mermaid": _mermaid(shown, keys, edges),
    }


def _canvas(steps: Sequence[Step | _Group], keys: Mapping[int, str]) -> dict[str, object]:
    nodes = [_node(step, keys) for step in steps]
    return nodes[0] if len(nodes) == 1 else {"chain": nodes}


def _node(step: Step | _Group, keys: Mapping[int, str]) -> dict[str, object]:
    match step:
        case _Group(units):
            return {"group": [_node(unit, keys) for unit in units]}
        case Chord(header, body):
            return {"chord": {"header": [_node(unit, keys) for unit in header], "body": _node(body, keys)}}
        case Unit(ids):
            return {"unit": [keys[id_] for id_ in ids]}


def _shown(fragments: Sequence[Fragment], edges: Iterable[Edge]) -> list[_Shown]:
    """Merge what was published side by side; the order of the plan stays, so `after` still points back."""
    siblings = _Siblings(fragments, edges)
    shown: list[_Shown] = []
    number_of: dict[int, int] = {}
    for index, fragment in enumerate(fragments):
        if index in number_of:
            continue
        members, steps = siblings.merged(index)
        number_of.update(dict.fromkeys(members, len(shown)))
        shown.append(_Shown(steps, tuple(sorted({number_of[before] for before in fragment.after}))))
    return shown


class _Siblings:
    """Finds fragments of one unit each that wait for the same subtasks and that the same fragments wait for.

    Only such are merged, because then every `after` says of the merged fragment what it said of each.
    """

    def __init__(self, fragments: Sequence[Fragment], edges: Iterable[Edge]) -> None:
        self._fragments = fragments
        self._upstreams: dict[int, set[int]] = defaultdict(set)
        for upstream, downstream in edges:
            self._upstreams[downstream].add(upstream)
        self._followers: list[list[int]] = [[] for _ in fragments]
        for index, fragment in enumerate(fragments):
            for before in fragment.after:
                self._followers[before].append(index)
        self._alike: dict[tuple[frozenset[int], tuple[int, ...]], list[int]] = defaultdict(list)
        for index, fragment in enumerate(fragments):
            if self._mergeable(fragment):
                self._alike[self._likeness(index)].append(index)

    def merged(self, index: int) -> tuple[list[int], tuple[Step | _Group, ...]]:
        """Return the indices of what is shown with this fragment, and the steps that are shown for all."""
        fragment = self._fragments[index]
        alike = self._alike[self._likeness(index)] if self._mergeable(fragment) else []
        if len(alike) <= 1:
            return [index], fragment.steps
        units = tuple(unit for one in alike for unit in units_of(self._fragments[one].steps[0]))
        match self._followers[index]:
            case [join] if self._joins(join, units):
                body, *following = self._fragments[join].steps
                return [*alike, join], (Chord(units, units_of(body)[0]), *following)
            case _:
                return alike, (_Group(units),)

    def _mergeable(self, fragment: Fragment) -> bool:
        return len(fragment.steps) == 1 and isinstance(fragment.steps[0], Unit) and not fragment.outside

    def _likeness(self, index: int) -> tuple[frozenset[int], tuple[int, ...]]:
        return frozenset(self._upstreams[self._fragments[index].head]), tuple(self._followers[index])

    def _joins(self, join: int, units: Iterable[Unit]) -> bool:
        fragment = self._fragments[join]
        last = {id_ for unit in units for id_ in (unit.ids[-1:] if unit.straight else unit.ids)}
        return isinstance(fragment.steps[0], Unit) and not fragment.outside and self._upstreams[fragment.head] == last


def _mermaid(shown: Sequence[_Shown], keys: Mapping[int, str], edges: Sequence[Edge]) -> str:
    """Draw subtasks, or else units, or else fragments: the finest that Mermaid takes."""
    units = [unit for one in shown for unit in one.units]
    drawn = ""
    if sum(len(unit.ids) for unit in units) <= MERMAID_NODES:
        drawn = _drawing(shown, [((id_,), f"n{id_}") for unit in units for id_ in unit.ids], keys, edges)
    if not drawn and len(units) <= MERMAID_NODES:
        drawn = _drawing(shown, [(unit.ids, f"u{number}") for number, unit in enumerate(units)], keys, edges)
    return drawn or _overview(shown)


def _drawing(
    shown: Sequence[_Shown],
    parts: Iterable[tuple[tuple[int, ...], str]],
    keys: Mapping[int, str],
    edges: Sequence[Edge],
) -> str:
    """Return the flowchart with one node per part, or nothing where it would be too large."""
    name_of: dict[int, str] = {}
    node_of: dict[str, str] = {}
    for ids, name in parts:
        name_of.update(dict.fromkeys(ids, name))
        node_of[name] = f'{name}["{_label([keys[id_] for id_ in ids])}"]'
    lines = ["flowchart TD"]
    for number, one in enumerate(shown):
        nodes = [node_of[name] for name in dict.fromkeys(name_of[id_] for id_ in one.ids)]
        lines += [f'subgraph f{number}["fragment {number}"]', *nodes, "end"] if len(nodes) > 1 else nodes
    arrows = dict.fromkeys((name_of[before], name_of[after]) for before, after in edges)
    lines += [f"{before} --> {after}" for before, after in arrows if before != after]
    text = "\n".join(lines) + "\n"
    return text if len(arrows) <= MERMAID_EDGES and len(text) <= MERMAID_CHARS else ""


def _overview(shown: Sequence[_Shown]) -> str:
    """Draw the first fragments as a node each, without keys: this one must fit whatever the plan."""
    drawn = shown[: MERMAID_NODES - 1]
    lines = ["flowchart TD"]
    lines += [f'f{number}["fragment {number} ({len(one.ids)} subtasks)"]' for number, one in enumerate(drawn)]
    arrows = [f"f{before} --> f{number}" for number, one in enumerate(drawn) for before in one.after]
    lines += arrows[:MERMAID_EDGES]
    left_out = [
        f"{count} more {what}"
        for count, what in ((len(shown) - len(drawn), "fragments"), (len(arrows) - MERMAID_EDGES, "edges"))
        if count > 0
    ]
    if left_out:
        lines.append(f'more["{", ".join(left_out)}"]')
    return "\n".join(lines) + "\n"


def _label(keys: Sequence[str]) -> str:
    if len(keys) == 1:
        return _escaped(keys[0])
    return f"{_escaped(keys[0])} … {_escaped(keys[-1])} ({len(keys)})"


def _escaped(key: str) -> str:
    """Write all that Mermaid or HTML could read as syntax as character codes."""
    cut = key if len(key) <= LABEL_CHARS else key[: LABEL_CHARS - 1] + "…"
    return "".join(char if char.isalnum() or char in _PLAIN or char == "…" else f"#{ord(char)};" for char in cut)
