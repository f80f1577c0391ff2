"""The parameters of calls: what each accepts, in words for people and in a schema for programs."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

from schema.documents.field_errors import unknown_name, validated
from schema.documents.field_types import Moment, TaskType
from schema.documents.problems import Problems
from schema.errors import InvalidArgument, SubError
from schema.identity import SubtaskId, TaskId
from schema.states import TaskState
from taskserver.projection import Status, states_of
from taskserver.queries.listing import SORT_COLUMNS, Order, TaskFilter
from taskserver.spelling import STORABLE, Spelled
from taskserver.views.view import BIGINT_MAX

MAX_PAGE_SIZE = 2_000
MAX_PAGE = 1_000_000_000
MAX_STATUS_IDS = 1_000
MAX_WAIT_SECONDS = 60
_DIRECTIONS = ("asc", "desc")
_IDS = Spelled("[0-9]{1,19}(,[0-9]{1,19})*", "must be whole numbers with commas between, such as 1,2,3")


def _only_digits(value: object) -> object:
    """Refuse what a lenient parser would take for another number than is written: 1.0, 1_0."""
    if isinstance(value, str) and not re.fullmatch("-?[0-9]+", value):
        raise ValueError("must be a whole number: give digits only")
    return value


WholeNumber = BeforeValidator(_only_digits)

# As the published manuals call them; in functions they have names that say more.
TASK_PATH, SUBTASK_PATH = "/{id}", "/{sid}"
TaskPathId = Annotated[TaskId, Path(alias="id", ge=1, le=BIGINT_MAX, description="The task's id."), WholeNumber]
SubtaskPathId = Annotated[
    SubtaskId, Path(alias="sid", ge=1, le=BIGINT_MAX, description="The subtask's id."), WholeNumber
]
WaitSeconds = Annotated[
    float,
    Query(
        alias="waitSeconds",
        ge=0,
        le=MAX_WAIT_SECONDS,
        description="Hold the answer so long, until it differs from If-None-Match, or from now.",
    ),
]
Until = Annotated[Literal["settled"] | None, Query(description="Wait for the end only, not for each change.")]
StatusIds = Annotated[
    list[Annotated[str, _IDS]],
    Query(description=f"At most {MAX_STATUS_IDS} ids: a comma list, or repeated."),
]


def split_ids(ids: Sequence[str]) -> list[TaskId]:
    """Return the ids of a comma list or a repeated parameter, each once.

    Raises:
        InvalidArgument: They are too many.

    """
    numbers = dict.fromkeys(TaskId(int(one)) for part in ids for one in part.split(","))
    if len(numbers) > MAX_STATUS_IDS:
        problem = SubError("ids", f"are {len(numbers)}, at most {MAX_STATUS_IDS} are answered: ask several times")
        raise InvalidArgument(f"ids {problem.message}", sub_errors=(problem,))
    return list(numbers)


def _words(values: list[str]) -> list[str]:
    words: list[str] = []
    for value in values:
        if value.lstrip().startswith("["):
            words.extend(_json_words(value))
        else:
            words.extend(value.split(","))
    return [word.strip().upper() for word in words if word.strip()]


def _json_words(value: str) -> list[str]:
    try:
        words = json.loads(value)
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError('is not a JSON array of words: give ["RUNNING", "FAILED"] or RUNNING,FAILED')
    return words


def _only(allowed: Sequence[str]) -> AfterValidator:
    def check(values: list[str]) -> list[str]:
        words = _words(values)
        for word in words:
            if word not in allowed:
                raise ValueError(f"names {word!r}: use {', '.join(allowed)}")
        return words

    return AfterValidator(check)


def _enum_schema(allowed: Sequence[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "array", "items": {"type": "string", "enum": list(allowed)}})


def _orders(values: list[str]) -> list[str]:
    for value in values:
        first, *others = _sorted_by(value)[0]
        if first not in SORT_COLUMNS:
            raise ValueError(f"names {first!r}, which cannot be sorted by: use one of {', '.join(SORT_COLUMNS)}")
        for other in others:
            if other not in SORT_COLUMNS:
                raise ValueError(
                    f"names {other!r}, no direction (asc, desc) and no field to sort by: {', '.join(SORT_COLUMNS)}"
                )
    return values


def _sorted_by(value: str) -> tuple[list[str], str]:
    """Return the fields of one criterion and, in small letters, the direction that stands last and is theirs together."""
    *fields, last = value.split(",")
    if fields and last.lower() in {"", *_DIRECTIONS}:
        return fields, last.lower()
    return [*fields, last], ""


def _time_text(value: object) -> object:
    if not isinstance(value, str) or not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:", value):
        raise ValueError("must be a time such as 2026-12-01T00:00:00Z")
    # In a query string a plus that was not escaped arrives as a space.
    return re.sub(r" (\d\d:?\d\d)$", r"+\1", value)


Text = Annotated[str, Field(max_length=500), STORABLE]
BigInt = Annotated[int, Field(ge=-BIGINT_MAX - 1, le=BIGINT_MAX, json_schema_extra={"format": "int64"}), WholeNumber]
Time = Annotated[Moment, BeforeValidator(_time_text)]
Statuses = Annotated[list[str], _only(list(Status)), _enum_schema(list(Status))]
States = Annotated[list[str], _only(list(TaskState)), _enum_schema(list(TaskState))]
_COLUMN = f"({'|'.join(SORT_COLUMNS)})"
Sorts = Annotated[
    list[str],
    AfterValidator(_orders),
    WithJsonSchema(
        {"type": "array", "items": {"type": "string", "pattern": f"^{_COLUMN}(,{_COLUMN})*(,(asc|desc))?$"}}
    ),
]


_LISTS = {"status", "state"}


class ListQuestion(BaseModel):
    """Filters, order and page of the list of tasks."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    name: Text | None = Field(None, description="A part of the name, in any case.")
    status: Statuses = Field([], description="RUNNING, FAILED, SUCCESSFUL: a comma list, repeated, or a JSON array.")
    state: States = Field([], description="The stored states, written the same ways; finer than status.")
    type: TaskType | None = Field(None, description="How the task came about.")
    task_type: Text | None = Field(None, description="The name of the definition, or `inline`.")
    cluster_name: Text | None = Field(None, description="A part of the cluster's name, in any case.")
    cluter_name: Text | None = Field(None, description="The same, as the published manual spells it.")
    cluster_id: BigInt | None = Field(None, description="The cluster's id.")
    tenant_name: Text | None = Field(None, description="The tenant's name.")
    tenant_id: BigInt | None = Field(None, description="The tenant's id.")
    host_id: BigInt | None = Field(None, description="The host's id.")
    creator: Text | None = Field(None, description="The name of the principal that submitted it.")
    instance_id: BigInt | None = Field(None, description="The instance that the task is about.")
    created_after: Time | None = Field(None, description="Created at this time or later.")
    created_before: Time | None = Field(None, description="Created before this time.")
    page: Annotated[int, WholeNumber] = Field(1, ge=1, le=MAX_PAGE, description="From 1.")
    size: Annotated[int, WholeNumber] = Field(10, ge=1, le=MAX_PAGE_SIZE, description="Tasks on a page.")
    sort: Sorts = Field(
        [], description="`field,asc` or `field,desc`, also of several fields; repeatable. The default is `id,desc`."
    )

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """Read the filters from a JSON document, whose members are spelled like the parameters.

        Raises:
            InvalidArgument: It names each wrong member.

        """
        known = {field.alias or name for name, field in cls.model_fields.items()} - {"page", "size", "sort"}
        problems = Problems()
        for name in document.keys() - known:
            problems.argument(f"/filter/{name}", unknown_name(name, known, sort="filter"), document[name])
        for name in (name for name, value in document.items() if value == ""):
            problems.argument(f"/filter/{name}", "must not be empty: leave it out to find any", "")
        listed = {name: [one] if name in _LISTS and isinstance(one, str) else one for name, one in document.items()}
        question = validated(cls, listed, problems, lambda _: known)
        problems.raise_if_any()
        return question

    @property
    def filter(self) -> TaskFilter:
        """The filters."""
        return TaskFilter(
            name=self.name or None,
            states=self._states(),
            type=self.type,
            task_type=self.task_type,
            cluster_name=self.cluster_name or self.cluter_name or None,
            cluster_id=self.cluster_id,
            tenant_name=self.tenant_name,
            tenant_id=self.tenant_id,
            host_id=self.host_id,
            creator=self.creator,
            instance_id=self.instance_id,
            created_after=self.created_after,
            created_before=self.created_before,
        )

    @property
    def order(self) -> list[Order]:
        """The sort criteria."""
        wanted = [_sorted_by(one) for one in self.sort or ["id,desc"]]
        return [Order(field, descending=direction == "desc") for fields, direction in wanted for field in fields]

    def _states(self) -> frozenset[TaskState] | None:
        """Return what both filters allow; None where neither was given."""
        allowed: frozenset[TaskState] | None = None
        if self.status:
            allowed = frozenset(state for word in self.status for state in states_of(Status(word)))
        if self.state:
            states = frozenset(TaskState(word) for word in self.state)
            allowed = states if allowed is None else allowed & states
        return allowed


class _WrittenQuestion(ListQuestion):
    """The same in a query string, where clients that fill in a form leave parameters empty: those are not given."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, parameters: Mapping[str, str | list[str]]) -> dict[str, str | list[str]]:
        return {name: value for name, value in parameters.items() if value not in ("", [""])}


ListQuery = Annotated[_WrittenQuestion, Query()]
