"""What all views share: frozen, camelCase on the wire, members absent where there is nothing to say."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, WithJsonSchema
from pydantic.alias_generators import to_camel

BIGINT_MAX = 2**63 - 1
_NOT_NOTED: frozenset[str] = frozenset()  # which members were given: nobody asks

Moment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Id = Annotated[int, WithJsonSchema({"type": "integer", "format": "int64"})]
HexId = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{32}$"})]


def _absent_instead_of_null(schema: dict[str, Any]) -> None:
    """Say in the JSON schema what `exclude_none` does on the wire: a member is there with a value, or not there."""
    for member in schema.get("properties", {}).values():
        if member.get("default", ...) is None:
            del member["default"]
        choices = [one for one in member.get("anyOf", ()) if one != {"type": "null"}]
        if len(choices) == 1:
            del member["anyOf"]
            member.update(choices[0])
        elif choices:
            member["anyOf"] = choices


class View(BaseModel):
    """A part of an answer. Its fields are exactly the members on the wire."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        json_schema_extra=_absent_instead_of_null,
    )

    @classmethod
    def unchecked(cls, members: dict[str, Any]) -> Self:
        """Return the view of members that we wrote ourselves: all of them, by their names, in order, of the right types.

        For rows by the ten thousand. What pydantic's own `model_construct` does beside this costs as much as checking.
        """
        view = cls.__new__(cls)
        view.__setstate__(
            {
                "__dict__": members,
                "__pydantic_fields_set__": _NOT_NOTED,
                "__pydantic_extra__": None,
                "__pydantic_private__": None,
            }
        )
        return view
