"""The definition document: a graph of subtasks under a name, which later submissions fill with arguments.

It is made of the same subtasks as a submission, and its graph, references and kinds are checked in the same way, but for the
task's arguments: those come with each submission. Pure; which kinds there are and where callbacks may go is told by the caller.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from schema.callback_hosts import CallbackHosts
from schema.documents.argument_checks import ArgumentChecker
from schema.documents.document import Document, check_raw
from schema.documents.field_errors import in_words, validated
from schema.documents.field_types import Concurrency, Description, DuplicatePolicy, HttpUrl, Key, Name, Seconds
from schema.documents.problems import QUOTED_LENGTH, Problems, shortened
from schema.documents.reference_checks import note_bad_graph, note_bad_references, note_unknown_kinds
from schema.documents.subtask import Subtask, known_fields, note_subtask
from schema.errors import InvalidArgument, InvalidGraph, SubError
from schema.kinds import KindInfo
from schema.limits import DEFAULT_LIMITS, Limits
from schema.pointers import join_pointer
from schema.redaction import find_open
from schema.storable import check_stored_size

INLINE = "inline"  # the type of tasks that name no definition
_WHOLE = "the definition"
_MOST_REDACTED = 100  # a list of definitions shows them all
_NAME: TypeAdapter[str] = TypeAdapter(Key, config=ConfigDict(strict=True))


def _callback_path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("must begin with '/': it is appended to the callback's url")
    return text


def _callback_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "carries a user or password, which every viewer would see: leave it out, deliveries are signed"
        )
    if parts.query or parts.fragment:
        raise ValueError("has a query or fragment, and the path is appended to it: give them in path")
    return text


class Callback(Document):
    """Where the elements of a task of this type are posted to: `url` + `path`.

    `retry` counts all attempts, as it does at the interface that it comes from: 3 makes at most three, 0 and 1 make one.
    """

    url: Annotated[HttpUrl, AfterValidator(_callback_url)]
    path: Annotated[str, Field(max_length=2048), AfterValidator(_callback_path)] = ""
    retry: Annotated[int, Field(ge=0, le=999)] | None = None
    timeout_seconds: Seconds | None = None

    @property
    def attempts(self) -> int:
        """How often an element is posted at most, without an answer."""
        return max(1, self.retry or 1)


class Definition(Document):
    """A task type: what its tasks have in common."""

    description: Description | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    subtasks: Annotated[tuple[Subtask, ...], Field(strict=False)] | None = None
    queue: Name | None = None
    callback: Callback | None = None
    concurrency: Concurrency | None = None
    on_duplicate: DuplicatePolicy | None = None
    redact: Annotated[tuple[Name, ...], Field(strict=False, max_length=_MOST_REDACTED)] = ()


_KNOWN_FIELDS = known_fields(Definition, {"callback": Callback})


def check_name(name: object) -> None:
    """Refuse what cannot be the name of a definition.

    Raises:
        InvalidArgument: it is no key, or has a meaning of its own.
    """
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        message = in_words(error.errors(include_url=False)[0])
    else:
        if name != INLINE:
            return
        message = "is the type of tasks without a definition: choose another name"
    shown = shortened(name)
    raise InvalidArgument(
        f"a definition's name: {shortened(name, QUOTED_LENGTH)!r} {message}",
        target="name",
        sub_errors=(SubError("name", message, shown),),
    )


def parse_definition(
    document: object,
    *,
    limits: Limits = DEFAULT_LIMITS,
    kinds: Mapping[str, KindInfo] | None = None,
    callback_hosts: CallbackHosts | None = None,
) -> Definition:
    """Return the definition that a JSON document describes, with its graph, references and constant arguments checked.

    Args:
        document: What was given.
        limits: How large it may be.
        kinds: The kinds that there are, or those that the document names; None does not ask.
        callback_hosts: The allow-list; None does not ask.

    Raises:
        InvalidArgument: fields are wrong; `sub_errors` names each.
        InvalidGraph: the graph, a kind or a reference is wrong, or there are too many subtasks or edges.
        TooLarge: arguments take more than may be stored.
    """
    definition = read_definition(document, limits=limits)
    check_definition(definition, limits=limits, kinds=kinds, callback_hosts=callback_hosts)
    return definition


def read_definition(document: object, *, limits: Limits = DEFAULT_LIMITS) -> Definition:
    """Return the definition that a JSON document describes; its graph is left to whoever makes a task of it.

    Raises:
        InvalidArgument: fields are wrong; `sub_errors` names each.
        InvalidGraph: a reference or condition is malformed, or there are too many subtasks.
    """
    check_raw(document, limits=limits, whole=_WHOLE)
    problems = Problems(_WHOLE)
    definition = validated(Definition, document, problems, _KNOWN_FIELDS)
    if definition.subtasks is None and definition.callback is None:
        problems.argument("", "needs subtasks or a callback: add one of them")
    for index, subtask in enumerate(definition.subtasks or ()):
        note_subtask(subtask, f"/subtasks/{index}", problems)
    problems.raise_if_any()
    return definition


def check_definition(
    definition: Definition,
    *,
    limits: Limits = DEFAULT_LIMITS,
    kinds: Mapping[str, KindInfo] | None = None,
    callback_hosts: CallbackHosts | None = None,
) -> None:
    """Check what a definition refers to, as `parse_definition` does.

    Raises:
        InvalidArgument: an argument or the callback is wrong.
        InvalidGraph: the graph, a kind or a reference is wrong, or there are too many edges.
        TooLarge: arguments take more than may be stored.
    """
    problems = Problems(_WHOLE)
    _note_graph(definition, kinds, limits, problems)
    _note_open_secrets(definition, problems)
    _note_wrong_constants(definition, kinds or {}, problems)
    _note_callback(definition, callback_hosts, problems)
    problems.raise_if_any()
    check_stored_size(definition.arguments, "/arguments", "the arguments", limits)
    for index, subtask in enumerate(definition.subtasks or ()):
        whose = f"the arguments of subtask {subtask.key!r}"
        check_stored_size(subtask.arguments, f"/subtasks/{index}/arguments", whose, limits)


def _note_graph(
    definition: Definition, kinds: Mapping[str, KindInfo] | None, limits: Limits, problems: Problems
) -> None:
    if definition.subtasks is None:
        return
    dag = note_bad_graph(definition.subtasks, problems)
    if kinds is not None:
        note_unknown_kinds(definition.subtasks, kinds, problems)
    note_bad_references(definition.subtasks, dag, problems, arguments=None)
    if dag is not None and dag.edge_count > limits.edges:
        raise InvalidGraph(
            f"the definition has {dag.edge_count} edges, at most {limits.edges} are taken (TASKSERVER_MAX_EDGES): put a subtask between the "
            "groups that wait for each other",
            target="/subtasks",
        )


def _note_wrong_constants(definition: Definition, kinds: Mapping[str, KindInfo], problems: Problems) -> None:
    checker = ArgumentChecker(kinds)
    for index, subtask in enumerate(definition.subtasks or ()):
        if problems.full:
            return
        if subtask.kind is None or subtask.kind not in kinds:
            continue
        for wrong in checker.wrong_arguments(subtask.kind, subtask.arguments):
            field = f"/subtasks/{index}/arguments{wrong.pointer}"
            problems.argument(field, f"subtask {subtask.key!r}: {wrong.message}", wrong.value)


def _note_open_secrets(definition: Definition, problems: Problems) -> None:
    """Note each value that is to be hidden in a task, and would be open to every viewer here."""
    why = "is hidden in tasks by redact, and every viewer can read a definition"
    for location in find_open(definition.arguments, definition.redact, references=False):
        problems.argument(join_pointer(("arguments", *location)), f"{why}: give it with each submission")
    for index, subtask in enumerate(definition.subtasks or ()):
        if problems.full:
            return
        for place, value in _given_values(subtask):
            for location in find_open(value, definition.redact):
                problems.argument(
                    join_pointer(("subtasks", index, *place, *location)),
                    f'subtask {subtask.key!r}: {why}: take it by {{"$arg": …}}, and give it with each submission',
                )


def _given_values(subtask: Subtask) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield what a subtask holds of the user's own values, each with its place."""
    yield ("arguments",), subtask.arguments
    yield ("foreach",), subtask.foreach
    yield ("when",), subtask.when
    if subtask.default is not None:
        yield ("default", "payload"), subtask.default.payload


def _note_callback(definition: Definition, hosts: CallbackHosts | None, problems: Problems) -> None:
    if definition.callback is None or hosts is None:
        return
    try:
        hosts.check_url(definition.callback.url + definition.callback.path)
    except InvalidArgument as error:
        problems.argument("/callback/url", error.message, definition.callback.url)
