"""Checks that what subtasks refer to is there: kinds, results of upstreams, task arguments, foreach elements.

Notes each problem and goes on, so that all are told at once.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice

from schema.documents.dag import Dag
from schema.documents.problems import Problems
from schema.documents.subtask import Subtask
from schema.errors import InvalidGraph
from schema.pointers import BadReference, follow, join_pointer
from schema.references import ArgumentReference, ItemReference, Location, Reference, ResultReference, find_references

# difflib is quadratic in the length, and slow over a hundred thousand keys.
_COMPARED_LENGTH = 200
_COMPARED_KEYS = 1000


def note_bad_graph(subtasks: Sequence[Subtask], problems: Problems) -> Dag | None:
    """Return the graph of the subtasks; where they are none, note why and return nothing."""
    try:
        return Dag.build((subtask.key, subtask.upstreams) for subtask in subtasks)
    except InvalidGraph as error:
        place = next((index for index, subtask in enumerate(subtasks) if subtask.key == error.target), None)
        problems.graph(join_pointer(("subtasks",) if place is None else ("subtasks", place)), error.message)
        return None


def note_unknown_kinds(subtasks: Sequence[Subtask], kinds: Collection[str], problems: Problems) -> None:
    """Note each subtask whose kind no worker has registered."""
    cures: dict[str, str] = {}
    for index, subtask in enumerate(subtasks):
        if problems.full:
            return
        kind = subtask.kind
        if kind is None or kind in kinds:
            continue
        if kind not in cures:
            cures[kind] = _closest_kinds(kind, kinds)
        problems.graph(
            f"/subtasks/{index}/kind",
            f"subtask {subtask.key!r} asks for kind {kind!r}, which no worker has registered: {cures[kind]}",
            kind,
        )


def note_bad_references(
    subtasks: Sequence[Subtask], dag: Dag | None, problems: Problems, *, arguments: Mapping[str, object] | None
) -> None:
    """Note each reference that cannot lead anywhere; without a graph, or the task's arguments, what can be told without."""
    keys = {subtask.key for subtask in subtasks}
    for index, subtask in enumerate(subtasks):
        if problems.full:
            return
        for location, reference in _references_of(subtask):
            field = join_pointer(("subtasks", index, *location))
            match reference:
                case ResultReference(key):
                    wrong = _wrong_with_result(subtask, key, keys, dag)
                case ArgumentReference(pointer):
                    wrong = _wrong_with_argument(pointer, location, arguments)
                case ItemReference():
                    wrong = _wrong_with_item(subtask, location)
            if wrong is not None:
                problems.graph(field, f"subtask {subtask.key!r} {wrong}")


def _references_of(subtask: Subtask) -> Iterator[tuple[Location, Reference]]:
    for name, value in (("arguments", subtask.arguments), ("when", subtask.when), ("foreach", subtask.foreach)):
        if value is not None:
            yield from (((name, *location), reference) for location, reference in find_references(value))


def _wrong_with_result(subtask: Subtask, key: str, keys: set[str], dag: Dag | None) -> str | None:
    if key in subtask.upstreams and key in keys:
        return None
    takes = f'takes {{"$from": {key!r}}}'
    if key not in keys:
        return f"{takes}, but there is no subtask {key!r}: {_cure_for_unknown(subtask, key, keys)}"
    if key == subtask.key:
        return f"{takes}, its own result: name one of its upstreams"
    if dag is None or dag.is_upstream(key, subtask.key):
        return None
    if dag.is_upstream(subtask.key, key):
        return f"{takes}, but {key!r} runs after it: turn the edge around, or take the value from elsewhere"
    return f"{takes}, but {key!r} is not upstream of it: add {key!r} to the upstreams of {subtask.key!r}"


def _cure_for_unknown(subtask: Subtask, key: str, keys: set[str]) -> str:
    template, bracket, rest = key.partition("[")
    if bracket and template in keys:
        return f'take {{"$from": {template!r}, "path": "/{rest.rstrip("]")}"}}, an element of its list'
    candidates = islice(chain((upstream for upstream in subtask.upstreams if upstream in keys), keys), _COMPARED_KEYS)
    close = difflib.get_close_matches(key[:_COMPARED_LENGTH], candidates, n=1)
    return f"did you mean {close[0]!r}?" if close else "name a subtask of this task"


def _wrong_with_argument(pointer: str, location: Location, arguments: Mapping[str, object] | None) -> str | None:
    if arguments is None or location[0] == "foreach":
        return None  # a foreach is told where its elements are taken
    try:
        follow(pointer, arguments, within="the task's arguments")
    except BadReference as error:
        return f'takes {{"$arg": {pointer!r}}}: {error.message}'
    return None


def _wrong_with_item(subtask: Subtask, location: Location) -> str | None:
    if subtask.foreach is not None and location[0] != "foreach":
        return None
    return 'uses "$item" outside a foreach: give it a foreach, or take the value from elsewhere'


def _closest_kinds(kind: str, kinds: Collection[str]) -> str:
    close = difflib.get_close_matches(kind, kinds, n=3)
    begin = f"did you mean {' or '.join(repr(name) for name in close)}? A" if close else "a"
    return f"{begin} kind is known once a worker with the module that defines it has started (its --handlers)"
