"""What all documents have in common: strict frozen models, and checks of the raw JSON before any model sees it."""

from itertools import islice

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from schema.documents.problems import MAX_REPORTED, Problems
from schema.errors import InvalidGraph
from schema.limits import Limits
from schema.storable import find_unstorable


class Document(BaseModel):
    """A part of a document: camelCase, strict, nothing beyond what is named."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=to_camel, hide_input_in_errors=True
    )


def field_names(model: type[Document]) -> list[str]:
    """Return the names that the model's fields have in a document."""
    return [field.alias or name for name, field in model.model_fields.items()]


def check_raw(document: object, *, limits: Limits, whole: str) -> None:
    """Refuse what cannot be stored and what has too many subtasks, before time is spent on either; `whole` says what the document is.

    Raises:
        InvalidArgument: a value cannot be stored, or is nested too deep.
        InvalidGraph: there are too many subtasks.
    """
    problems = Problems(whole)
    for found in islice(find_unstorable(document, depth=limits.depth), MAX_REPORTED + 1):
        problems.argument(found.pointer, found.message, found.value)
    problems.raise_if_any()
    subtasks = document.get("subtasks") if isinstance(document, dict) else None
    if isinstance(subtasks, list) and len(subtasks) > limits.subtasks:
        raise InvalidGraph(
            f"{whole} has {len(subtasks)} subtasks, at most {limits.subtasks} are taken (TASKSERVER_MAX_SUBTASKS): "
            "submit several tasks, or let one subtask do more",
            target="/subtasks",
        )
