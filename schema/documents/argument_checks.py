"""Checks arguments against the JSON schema of their kind, as far as they are constant.

What a reference will yield is not known yet. In its place the schema sees null, and what it says about that place is dropped,
as are verdicts on what surrounds it that hang on the value (`anyOf`, `enum`, …). Unknown and missing names are always told.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jsonschema_rs

from schema.errors import InvalidGraph
from schema.kinds import KindInfo
from schema.pointers import join_pointer
from schema.references import Literal, Location, recognise

# About an object or array that holds a reference, these can be told without knowing what the reference yields.
_SURE_AROUND_REFERENCES = frozenset(
    {
        "additionalProperties",
        "dependentRequired",
        "maxItems",
        "maxProperties",
        "minItems",
        "minProperties",
        "propertyNames",
        "required",
        "type",
    }
)
# Below these a schema applies only if something else holds.
_CONDITIONAL = frozenset({"contains", "dependentSchemas", "else", "if", "not", "then"})


@dataclass(frozen=True, slots=True)
class WrongArgument:
    """A value inside arguments that the kind does not take."""

    pointer: str
    message: str
    value: object


class ArgumentChecker:
    """Checks arguments against the schemas of kinds; compiles each schema once."""

    def __init__(self, kinds: Mapping[str, KindInfo]) -> None:
        self._kinds = kinds
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def wrong_arguments(self, kind: str, arguments: dict[str, object]) -> Iterator[WrongArgument]:
        """Yield what the schema of a known kind says against the constant part of these arguments.

        Raises:
            InvalidGraph: what the worker registered is not a JSON schema.
        """
        validator = self._validators.get(kind)
        if validator is None:
            validator = self._validators[kind] = _compile(self._kinds[kind])
        unknown: list[Location] = []
        constant = _constant_part(arguments, (), unknown)
        if () in unknown or validator.is_valid(constant):
            return
        for error in validator.iter_errors(constant):
            if _is_certain(error, unknown):
                yield _wrong_argument(error, kind)


def _compile(kind: KindInfo) -> jsonschema_rs.Validator:
    try:
        # Offline: a schema must not make the server call addresses that a worker names.
        return jsonschema_rs.validator_for(dict(kind.arguments_schema), offline=True)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise InvalidGraph(
            f"kind {kind.name!r} is registered with an arguments schema that cannot be used "
            f"({str(error).splitlines()[0]}): correct the handler's type hints and restart its workers",
            target=kind.name,
        ) from error


def _constant_part(value: object, location: Location, unknown: list[Location]) -> object:
    """Return the value with literals unwrapped and null for each reference, whose places are added to `unknown`."""
    if isinstance(value, list):
        return [_constant_part(inner, (*location, index), unknown) for index, inner in enumerate(value)]
    if not isinstance(value, dict):
        return value
    found = recognise(value)
    if found is None:
        return {name: _constant_part(inner, (*location, name), unknown) for name, inner in value.items()}
    if isinstance(found, Literal):
        return found.value
    unknown.append(location)
    return None


def _is_certain(error: jsonschema_rs.ValidationError, unknown: list[Location]) -> bool:
    if not unknown:
        return True
    place = tuple(error.instance_path)
    if any(place[: len(location)] == location for location in unknown):
        return False
    if not _CONDITIONAL.isdisjoint(error.schema_path):
        return False
    surrounds = any(location[: len(place)] == place for location in unknown)
    return not surrounds or error.kind.name in _SURE_AROUND_REFERENCES


def _wrong_argument(error: jsonschema_rs.ValidationError, kind: str) -> WrongArgument:
    place: Location = tuple(error.instance_path)
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.Required(property=str(name)):
            return WrongArgument(join_pointer((*place, name)), f"is required by kind {kind!r}: add it", None)
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=[*names]):
            shown = ", ".join(repr(name) for name in names[:10])
            return WrongArgument(
                join_pointer((*place, names[0])), f"{shown}: kind {kind!r} takes no such argument", None
            )
        case jsonschema_rs.ValidationErrorKind.AnyOf(context=alternatives):
            reasons = " or ".join(dict.fromkeys(_shown(inner.message) for errors in alternatives for inner in errors))
            return WrongArgument(join_pointer(place), f"is not what kind {kind!r} takes: {reasons}", error.instance)
        case _:
            return WrongArgument(
                join_pointer(place), f"is not what kind {kind!r} takes: {_shown(error.message)}", error.instance
            )


def _shown(message: str) -> str:
    return message if len(message) <= 300 else message[:300] + "…"  # noqa: PLR2004 - the message quotes the value
