"""What stands under names that must not be shown, and the same values wherever else they turn up.

Without recursion: values may be nested as deep as their parser let them. Texts that handlers compose themselves, such as logs
and the messages of errors, are not looked into.
"""

from collections.abc import Collection, Iterator
from typing import TypeGuard

from schema.pointers import BadReference
from schema.references import Literal, Reference, recognise

MASK = "******"
Location = tuple[str | int, ...]


def find_named(value: object, names: Collection[str]) -> Iterator[tuple[Location, object]]:
    """Yield what stands under one of the names, at any depth, with its location; it is not looked into further."""
    stack: list[tuple[Location, object]] = [((), value)]
    while stack:
        location, here = stack.pop()
        for name, inner in _members(here):
            if name in names:
                yield (*location, name), inner
            else:
                stack.append(((*location, name), inner))


def find_open(value: object, names: Collection[str], *, references: bool = True) -> Iterator[Location]:
    """Yield where something other than null is written under one of the names, at any depth.

    Args:
        value: JSON.
        names: Members of objects.
        references: Pass over references (`{"$arg": …}`), outside literals: they say where a value comes from, not what it is.

    """
    stack: list[tuple[Location, object, bool, bool]] = [((), value, False, references)] if names else []
    while stack:
        location, here, named, referring = stack.pop()
        found = _recognised(here) if referring else None
        if found is not None and not isinstance(found, Literal):
            continue
        referring = referring and found is None
        if isinstance(here, (dict, list)):
            inside = [((*location, name), one, named or name in names, referring) for name, one in _members(here)]
            stack.extend(reversed(inside))
        elif named and here is not None:
            yield location


class Redaction:
    """Hides what a definition wants hidden in the answers about one of its tasks."""

    def __init__(self, names: Collection[str], arguments: object) -> None:
        """Take note of what to look for.

        Args:
            names: Members of objects whose values are hidden, at any depth.
            arguments: The task's; a text or number hidden in them is hidden wherever else it is the whole value.

        """
        self._names = frozenset(names)
        self._secrets = {leaf for _, value in find_named(arguments, self._names) for leaf in _leaves(value)}

    def hide(self, value: object, *, references: bool = False) -> object:
        """Return the value without what is to be hidden; it is changed in place.

        Args:
            value: JSON, as read for this answer alone.
            references: Show references (`{"$arg": …}`): they say where a value comes from, not what it is.

        """
        if not self._names:
            return value
        whole = [value]
        stack: list[object] = [whole]
        while stack:
            here = stack.pop()
            for name, inner in list(_members(here)):
                if self._is_hidden(name, inner) and not (references and _is_reference(inner)):
                    here[name] = MASK  # type: ignore[index] # only dicts and lists have members
                else:
                    stack.append(inner)
        return whole[0]

    def _is_hidden(self, name: str | int, value: object) -> bool:
        return name in self._names or (_is_leaf(value) and value in self._secrets)


def _members(value: object) -> Iterator[tuple[str | int, object]]:
    match value:
        case dict():
            yield from value.items()
        case list():
            yield from enumerate(value)


def _leaves(value: object) -> Iterator[str | int | float]:
    stack = [value]
    while stack:
        here = stack.pop()
        if _is_leaf(here):
            yield here
        stack.extend(inner for _, inner in _members(here))


def _is_leaf(value: object) -> TypeGuard[str | int | float]:
    """Tell whether the value alone can give something away; the empty text, true and false cannot."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""


def _is_reference(value: object) -> bool:
    found = _recognised(value)
    return found is not None and not isinstance(found, Literal)


def _recognised(value: object) -> Reference | Literal | None:
    try:
        return recognise(value) if isinstance(value, dict) else None
    except BadReference:
        return None
