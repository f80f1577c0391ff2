"""The reference language inside arguments: recognised by the server, resolved by the workers.

`{"$arg": pointer}` is a value of the task's arguments, `{"$from": key, "path": pointer}` of an upstream's result,
`{"$item": pointer}` of the foreach element, and `{"$literal": value}` is the value itself, whatever it looks like. Any other
object with a name that starts with `$` is an error, so that a misspelt reference never reaches a handler as data. What a
reference yields is data too: it is never looked into for further references.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from schema.pointers import BadReference, follow, join_pointer, split_pointer

__all__ = [
    "NO_ITEM",
    "NO_RESULT",
    "ArgumentReference",
    "BadReference",
    "ItemReference",
    "Literal",
    "Reference",
    "ResultReference",
    "find_references",
    "quoted",
    "recognise",
    "resolve",
    "substitute_item",
]

_MAX_DEPTH = 256  # far above any limit on submissions; here only recursion is at stake
_SHAPES = '{"$arg": pointer}, {"$from": key, "path": pointer}, {"$item": pointer}, {"$literal": value}'
_CURE = f'the shapes are {_SHAPES}; put data with such names in {{"$literal": …}}'


class _Absent:
    """A value that no JSON document can hold."""

    def __repr__(self) -> str:
        return "absent"


NO_ITEM: Final = _Absent()
"""There is no foreach element here."""

NO_RESULT: Final = _Absent()
"""In `results`: the subtask ended without one (it was skipped), so that every path in it is null."""


@dataclass(frozen=True, slots=True)
class ArgumentReference:
    """`{"$arg": pointer}`."""

    pointer: str


@dataclass(frozen=True, slots=True)
class ResultReference:
    """`{"$from": key, "path": pointer}`."""

    key: str
    pointer: str = ""


@dataclass(frozen=True, slots=True)
class ItemReference:
    """`{"$item": pointer}`."""

    pointer: str


@dataclass(frozen=True, slots=True)
class Literal:
    """`{"$literal": value}`."""

    value: object


Reference = ArgumentReference | ResultReference | ItemReference
Location = tuple[str | int, ...]


def recognise(value: dict[str, object]) -> Reference | Literal | None:
    """Return the reference or literal that this object is, None where it is plain data.

    Raises:
        BadReference: it has a `$` name but none of the four shapes.
    """
    dollar = next((name for name in value if name[:1] == "$"), None)
    if dollar is None:
        return None
    match value:
        case {"$literal": literal} if len(value) == 1:
            return Literal(literal)
        case {"$arg": str(pointer)} if len(value) == 1:
            split_pointer(pointer)
            return ArgumentReference(pointer)
        case {"$item": str(pointer)} if len(value) == 1:
            split_pointer(pointer)
            return ItemReference(pointer)
        case {"$from": str(key)} if len(value) == 1:
            return ResultReference(key)
        case {"$from": str(key), "path": str(pointer)} if len(value) == len(("$from", "path")):
            split_pointer(pointer)
            return ResultReference(key, pointer)
        case _:
            raise BadReference(f"{dollar!r} is not used as a reference is written: {_CURE}")


def find_references(value: object) -> Iterator[tuple[Location, Reference]]:
    """Yield every reference inside the value with its location; what a literal holds is not looked into.

    Raises:
        BadReference: an object with a `$` name has none of the shapes, or the nesting is too deep.
    """
    # Only containers go on the stack: what is not one holds no reference.
    stack: list[tuple[Location, object]] = [((), value)]
    while stack:
        location, here = stack.pop()
        _check_depth(len(location))
        found = _recognise_at(location, here) if isinstance(here, dict) else None
        if found is None:
            stack.extend(reversed([((*location, name), inner) for name, inner in _containers_in(here)]))
        elif not isinstance(found, Literal):
            yield location, found


def _containers_in(value: object) -> Iterator[tuple[str | int, object]]:
    members: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    return ((name, inner) for name, inner in members if isinstance(inner, (dict, list)))


def resolve(
    value: object,
    *,
    arguments: Mapping[str, object],
    results: Mapping[str, object],
    item: object = NO_ITEM,
) -> object:
    """Return the value with every reference replaced by what it names and every literal by its value.

    `results` holds one entry per upstream key: its result, the list of results in order where it is a foreach, `NO_RESULT`
    (also inside that list) where it was skipped. What comes out may share structure with what went in.

    Raises:
        BadReference: a reference names nothing; the message says the place, the pointer and how far it got.
    """
    return _replace(value, _Resolver(arguments, results, item), ())


def substitute_item(value: object, item: object) -> object:
    """Return the value with each `$item` replaced by the element's part; other references and literals stay.

    The element is data: where it looks like a reference it is put in as a literal.

    Raises:
        BadReference: the element has nothing at a pointer.
    """
    return _replace(value, _ItemSubstitution(item), ())


def quoted(value: object) -> object:
    """Return data as it is written inside arguments: as it is, or as a literal where it has names that start with `$`."""
    stack = [value]
    while stack:
        here = stack.pop()
        if isinstance(here, dict):
            if any(name.startswith("$") for name in here):
                return {"$literal": value}
            stack.extend(here.values())
        elif isinstance(here, list):
            stack.extend(here)
    return value


@dataclass(frozen=True, slots=True)
class _Resolver:
    arguments: Mapping[str, object]
    results: Mapping[str, object]
    item: object

    def __call__(self, found: Reference | Literal) -> object:
        match found:
            case Literal(value):
                return value
            case ArgumentReference(pointer):
                return follow(pointer, self.arguments, within="the task's arguments")
            case ItemReference(pointer):
                return _part_of_item(pointer, self.item)
            case ResultReference(key, pointer):
                return self._part_of_result(key, pointer)

    def _part_of_result(self, key: str, pointer: str) -> object:
        if key not in self.results:
            raise BadReference(f'{{"$from": {key!r}}} has no result here: {key!r} is not an upstream that has ended')
        result = self.results[key]
        if result is NO_RESULT:
            return None
        if isinstance(result, list) and any(element is NO_RESULT for element in result):
            tokens = split_pointer(pointer)
            if tokens and follow(join_pointer(tokens[:1]), result, within=f"the results of {key!r}") is NO_RESULT:
                return None
            result = [None if element is NO_RESULT else element for element in result]
        return follow(pointer, result, within=f"the result of {key!r}")


@dataclass(frozen=True, slots=True)
class _ItemSubstitution:
    item: object

    def __call__(self, found: Reference | Literal) -> object:
        match found:
            case ItemReference(pointer):
                return quoted(_part_of_item(pointer, self.item))
            case Literal(value):
                return {"$literal": value}
            case ArgumentReference(pointer):
                return {"$arg": pointer}
            case ResultReference(key, pointer):
                return {"$from": key, "path": pointer} if pointer else {"$from": key}


def _part_of_item(pointer: str, item: object) -> object:
    if item is NO_ITEM:
        raise BadReference(
            '"$item" is used outside a foreach: give the subtask a foreach, or take the value from elsewhere'
        )
    return follow(pointer, item, within="the foreach element")


def _replace(value: object, replacement: _Resolver | _ItemSubstitution, location: Location) -> object:
    # Recursion is safe here: the depth is checked, and what a replacement yields is not descended into.
    _check_depth(len(location))
    if isinstance(value, list):
        return [_replace(inner, replacement, (*location, index)) for index, inner in enumerate(value)]
    if not isinstance(value, dict):
        return value
    found = _recognise_at(location, value)
    if found is None:
        return {name: _replace(inner, replacement, (*location, name)) for name, inner in value.items()}
    try:
        return replacement(found)
    except BadReference as error:
        raise _located(error, location) from error


def _recognise_at(location: Location, value: dict[str, object]) -> Reference | Literal | None:
    try:
        return recognise(value)
    except BadReference as error:
        raise _located(error, location) from error


def _located(error: BadReference, location: Location) -> BadReference:
    """The same error, saying where; its target is the pointer of the reference inside the value."""
    place = join_pointer(location)
    return BadReference(f"at {place or 'the top'}: {error.message}", target=place)


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BadReference(f"arguments are nested deeper than {_MAX_DEPTH} levels: make them flatter")
