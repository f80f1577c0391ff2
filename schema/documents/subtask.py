"""One subtask as users write it, and the rules that concern it alone; submissions and definitions are made of these."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from schema.conditions import check_condition
from schema.documents.document import Document, field_names
from schema.documents.field_errors import KnownFields
from schema.documents.field_types import Attempts, Backoff, Description, Key, Name, Seconds, Title
from schema.documents.problems import Problems
from schema.pointers import BadReference
from schema.references import ArgumentReference, ItemReference, ResultReference, find_references, recognise


class Signal(Document):
    """What a subtask that waits takes for its signal when its deadline passes."""

    approve: bool = True
    payload: Any = None


class Subtask(Document):
    """One node as the user wrote it, before foreach expansion."""

    key: Key
    name: Title | None = None
    description: Description | None = None
    kind: Name | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    upstreams: Annotated[tuple[str, ...], Field(strict=False)] = ()
    foreach: Any = None
    mode: Literal["parallel", "serial"] = "parallel"
    timeout: Seconds | None = None
    max_attempts: Attempts | None = None
    backoff_seconds: Backoff | None = None
    queue: Name | None = None
    prohibit_rollback: bool | None = None
    allow_failure: bool = False
    when: Any = None
    wait_for: Literal["approval", "callback"] | None = None
    deadline_seconds: Seconds | None = None
    default: Signal | None = None

    @property
    def foreach_source(self) -> ArgumentReference | ResultReference | None:
        """The reference that yields the foreach elements; None where they are written out or there is no foreach."""
        found = recognise(self.foreach) if isinstance(self.foreach, dict) else None
        return found if isinstance(found, (ArgumentReference, ResultReference)) else None


def known_fields(whole: type[Document], parts: Mapping[str, type[Document]]) -> KnownFields:
    """Return what tells the names of fields by their location in a document that has subtasks, and parts of its own."""

    def at(location: tuple[str | int, ...]) -> list[str]:
        match location:
            case ():
                model = whole
            case (str(name),) if name in parts:
                model = parts[name]
            case ("subtasks", _, "default"):
                model = Signal
            case _:
                model = Subtask
        return field_names(model)

    return at


def note_subtask(subtask: Subtask, at: str, problems: Problems) -> None:
    """Note each rule that a subtask breaks by itself; `at` is the pointer to it."""
    _note_work(subtask, at, problems)
    if subtask.mode == "serial" and subtask.foreach is None:
        problems.argument(f"{at}/mode", "has a meaning only with foreach: add foreach or leave it out", subtask.mode)
    _note_bad_reference(f"{at}/arguments", lambda: list(find_references(subtask.arguments)), problems)
    if subtask.foreach is not None:
        _note_bad_reference(f"{at}/foreach", lambda: _check_foreach(subtask.foreach), problems)
    if subtask.when is not None:
        _note_bad_reference(f"{at}/when", lambda: check_condition(subtask.when), problems)


def _note_work(subtask: Subtask, at: str, problems: Problems) -> None:
    if subtask.wait_for is None:
        if subtask.kind is None:
            problems.argument(f"{at}/kind", "is required: name the kind of work, or give waitFor")
        if subtask.deadline_seconds is not None:
            problems.argument(f"{at}/deadlineSeconds", "belongs to waitFor: use timeout for a handler", None)
    else:
        for name in ("kind", "timeout", "max_attempts", "backoff_seconds", "queue"):
            value = getattr(subtask, name)
            if value is not None:
                problems.argument(
                    f"{at}/{to_camel(name)}", "concerns a handler, and waitFor has none: leave it out", value
                )
    if subtask.default is not None and (subtask.wait_for is None or subtask.deadline_seconds is None):
        problems.argument(
            f"{at}/default", "is the answer when a waitFor's deadlineSeconds pass: give both or leave it out"
        )


def _note_bad_reference(field: str, check: Callable[[], object], problems: Problems) -> None:
    try:
        check()
    except BadReference as error:
        problems.graph(field + (error.target or ""), error.message)


def _check_foreach(foreach: object) -> None:
    """Elements are data: a list without references, or one reference that yields the list."""
    if isinstance(foreach, list):
        for location, _ in find_references(foreach):
            raise BadReference(
                f"element {location[0]} of foreach holds a reference, but elements are data: "
                'take the whole list by {"$arg": …} or {"$from": …}, or write {"$literal": …}'
            )
        return
    found = recognise(foreach) if isinstance(foreach, dict) else None
    if found is None or not isinstance(found, (ArgumentReference, ResultReference)):
        cure = (
            "a subtask has no element before it has a foreach" if isinstance(found, ItemReference) else "nothing else"
        )
        raise BadReference(f'foreach takes an array, {{"$arg": pointer}} or {{"$from": key, "path": pointer}}; {cure}')
