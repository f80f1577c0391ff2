"""The submission document: its models, and the one door through which a document becomes one.

Owns the shape of contract §4 and the rules that concern one subtask alone. It does not know which kinds exist, what the graph
looks like or what a reference leads to: that is `expansion`. A field that is None was left out, and whoever knows the
definition or the kind fills in the default.
"""

from collections.abc import Callable, Collection
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from schema.conditions import check_condition
from schema.documents.field_errors import note_field_errors
from schema.documents.field_types import (
    Attempts,
    Backoff,
    BigInt,
    BusinessId,
    Concurrency,
    Description,
    DuplicatePolicy,
    Extra,
    HttpUrl,
    Key,
    Moment,
    Name,
    Priority,
    Seconds,
    TaskType,
    Title,
)
from schema.documents.problems import MAX_REPORTED, Problems
from schema.errors import InvalidGraph
from schema.limits import DEFAULT_LIMITS, Limits
from schema.pointers import BadReference
from schema.references import ArgumentReference, ItemReference, ResultReference, find_references, recognise
from schema.storable import find_unstorable


class _Document(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=to_camel, hide_input_in_errors=True
    )


class Cluster(_Document):
    """The OCP cluster that a task is about."""

    id: BigInt | None = None
    name: Title | None = None
    ob_cluster_id: BigInt | None = None
    type: Literal["PRIMARY", "STANDBY"] | None = None


class Tenant(_Document):
    """The tenant that a task is about; the seed spells `obTenantId` as `obClusterId`."""

    id: BigInt | None = None
    name: Title | None = None
    ob_tenant_id: BigInt | None = Field(None, validation_alias=AliasChoices("obTenantId", "obClusterId"))
    mode: Literal["ORACLE", "MYSQL"] | None = None


class Signal(_Document):
    """What a subtask that waits takes for its signal when its deadline passes."""

    approve: bool = True
    payload: Any = None


class Subtask(_Document):
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


class Submission(_Document):
    """A task as the user submits it."""

    name: Title | None = None
    definition: Name | None = None
    type: TaskType = "MANUAL"
    instance_id: BigInt | None = None
    extra: Extra = ""
    on_duplicate: DuplicatePolicy | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    cluster: Cluster | None = None
    tenant: Tenant | None = None
    host_id: BigInt | None = None
    integration_id: BigInt | None = None
    user_id: BigInt | None = None
    client_id: BigInt | None = None
    account_id: BigInt | None = None
    template_id: BigInt | None = None
    biz_id: BusinessId | None = None
    priority: Priority = 5
    start_at: Moment | None = None
    deadline_seconds: Seconds | None = None
    concurrency: Concurrency | None = None
    prohibit_rollback: bool = False
    callback_url: HttpUrl | None = None
    subtasks: Annotated[tuple[Subtask, ...], Field(strict=False)] | None = None


def parse_submission(document: object, *, limits: Limits = DEFAULT_LIMITS) -> Submission:
    """Return the submission that a JSON document describes.

    Raises:
        InvalidArgument: fields are wrong; `sub_errors` names each.
        InvalidGraph: a reference or condition is malformed, or there are too many subtasks.
    """
    _check_storable(document, limits)
    _check_count(document, limits)
    problems = Problems()
    try:
        submission = Submission.model_validate(document)
    except ValidationError as error:
        note_field_errors(error, problems, _known_fields)
        problems.raise_if_any()
        raise  # unreachable as long as pydantic names at least one error
    _note_rule_breaks(submission, problems)
    problems.raise_if_any()
    return submission


def _check_storable(document: object, limits: Limits) -> None:
    problems = Problems()
    for found in islice(find_unstorable(document, depth=limits.depth), MAX_REPORTED + 1):
        problems.argument(found.pointer, found.message, found.value)
    problems.raise_if_any()


def _check_count(document: object, limits: Limits) -> None:
    subtasks = document.get("subtasks") if isinstance(document, dict) else None
    if isinstance(subtasks, list) and len(subtasks) > limits.subtasks:
        raise InvalidGraph(
            f"the submission has {len(subtasks)} subtasks, at most {limits.subtasks} are taken: "
            "submit several tasks, or let one subtask do more",
            target="/subtasks",
        )


def _known_fields(location: tuple[str | int, ...]) -> Collection[str]:
    match location:
        case ():
            model: type[_Document] = Submission
        case ("cluster",):
            model = Cluster
        case ("tenant",):
            model = Tenant
        case ("subtasks", _, "default"):
            model = Signal
        case _:
            model = Subtask
    return [field.alias or name for name, field in model.model_fields.items()]


def _note_rule_breaks(submission: Submission, problems: Problems) -> None:
    if submission.definition is None and submission.subtasks is None:
        problems.argument("", "needs either a definition or subtasks: add one of them")
    if submission.definition is not None and submission.subtasks is not None:
        problems.argument(
            "/definition", "stands beside subtasks: give either a definition or subtasks", submission.definition
        )
    if submission.on_duplicate not in {None, "allow"} and submission.instance_id is None:
        problems.argument("/onDuplicate", "needs an instanceId: duplicates are told by it", submission.on_duplicate)
    for index, subtask in enumerate(submission.subtasks or ()):
        _note_subtask(subtask, f"/subtasks/{index}", problems)


def _note_subtask(subtask: Subtask, at: str, problems: Problems) -> None:
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
