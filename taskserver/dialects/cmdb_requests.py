"""What calls of the BK-CMDB dialect are given: documents with Mongo-like conditions.

A condition is a field with a value, or with operators; fields and operators stand on a whitelist, and all else is refused by
its name. Around it Go's reading holds, because clients count on it: members that nobody knows are passed over, and null is what
was not given. Only what deletes is read by the letter.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schema.documents.field_errors import unknown_name, validated
from schema.documents.field_types import BigInt, Extra, Name
from schema.documents.problems import Problems
from schema.errors import InvalidArgument, SubError
from schema.pointers import join_pointer
from schema.storable import find_unstorable
from taskserver.queries import cmdb_conditions
from taskserver.queries.cmdb_conditions import Condition, Operator, Order, Sort, Word

NO_LIMIT = 999_999_999
"""What clients of the original give for a limit when they want no limit; 0 and nothing say the same."""
MAX_START = 1_000_000_000
_MAX_VALUES = 10_000
_BIGINT = range(-(2**63), 2**63)
_FROM_GATEWAY = {"bk_app_code", "bk_app_secret", "bk_token", "bk_username", "bk_supplier_account", "metadata"}
_LISTS = {Operator.AMONG, Operator.NOT_AMONG}
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_TIME_WORDS = (
    "must be a time such as 2026-12-01T00:00:00Z, or 2026-12-01 00:00:00 or 2026-12-01 in the server's time zone"
)
_Model = TypeVar("_Model", bound="Body")


class Body(BaseModel):
    """A body, or a part of one."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, document: object) -> object:
        if not isinstance(document, dict):
            return document
        return {name: value for name, value in document.items() if value is not None}


def _text_of_number(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class NewCallbackTask(Body):
    """A task to create."""

    task_type: Annotated[Name, BeforeValidator(lambda value: value.strip() if isinstance(value, str) else value)] = (
        Field(description="The definition whose callback each element is posted to.")
    )
    bk_inst_id: BigInt = Field(0, description="What the task is about: one task of a type at a time for each.")
    extra: Annotated[Extra, BeforeValidator(_text_of_number)] = Field(
        "", description="Tells tasks of one instance apart."
    )
    data: list[Any] = Field(min_length=1, description="One subtask for each element, in this order.")


class TimeRule(Body):
    """The time span that a field must be in, both ends included."""

    field: str = Field(description="create_time or last_time.")
    start: str | int | None = Field(None, description="A time as text, or in seconds since the epoch.")
    end: str | int | None = None


class TimeCondition(Body):
    """Time spans, all of which must hold."""

    oper: Literal["and"]
    rules: list[TimeRule] = Field(min_length=1, max_length=20)


_LIMIT_WORDS = (
    "At most 1000 tasks, or 10000 rows of the history or newest tasks. 0, 999999999 and nothing say all; more than 10000 "
    "are an error then."
)


class Paging(Body):
    """Which part of what is found to answer."""

    start: int = Field(0, ge=0, le=MAX_START)
    limit: int = Field(0, ge=0, le=NO_LIMIT, description=_LIMIT_WORDS)
    sort: Annotated[str, Field(max_length=500)] = Field("", description="`-create_time,task_id` or `create_time:-1`.")


class Selection(Body):
    """Which documents."""

    condition: dict[str, Any] | None = Field(
        None, description='`{"field": value}` or `{"field": {"$in": […]}}`; $eq $in $nin $ne $gt $gte $lt $lte.'
    )
    time_condition: TimeCondition | None = None


class Deletion(Selection):
    """Which documents to delete: nothing is, where a member may have been meant to spare some."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _own_members(cls, document: object) -> object:
        if not isinstance(document, dict):
            return document
        return {name: value for name, value in document.items() if name not in _FROM_GATEWAY}


class Question(Selection):
    """Which documents, and what to answer of them."""

    fields: list[str] | None = Field(None, description="The members to answer; all if there are none.")
    page: Paging | None = None
    disable_counter: bool = Field(False, description="Answer 0 for the count.")

    @property
    def paging(self) -> Paging:
        """The page, also where none was given."""
        return self.page or Paging()


def read(model: type[_Model], document: object, pointer: str = "") -> _Model:
    """Return what a document says.

    Raises:
        InvalidArgument: It names each wrong member, behind the pointer.

    """
    try:
        return validated(model, document, Problems("the body"), lambda _: set(model.model_fields))
    except InvalidArgument as error:
        if not pointer:
            raise
        located = tuple(SubError(pointer + one.field, one.message, one.rejected_value) for one in error.sub_errors)
        raise InvalidArgument(f"{pointer}: {error.message}", target=pointer, sub_errors=located) from error


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question whose conditions and sort criteria were found right."""

    conditions: list[Condition]
    orders: list[Order]
    fields: frozenset[str]
    start: int
    limit: int | None
    counted: bool


def wanted(
    question: Question, fields: Mapping[str, cmdb_conditions.Field], *, most: int, sortable: bool = True
) -> Wanted:
    """Return what the question asks of documents with these fields, of which one answer has at most so many.

    Raises:
        InvalidArgument: It names each field, operator, value and sort criterion that is not possible.

    """
    problems = Problems("the body")
    conditions = _all_conditions(question, fields, problems)
    paging = question.paging
    orders = _orders(paging.sort, fields, problems)
    if orders and not sortable:
        problems.argument(
            "/page/sort", "is not possible: the newest are answered by task_type and bk_inst_id", paging.sort
        )
    limit = None if paging.limit in {0, NO_LIMIT} else paging.limit
    if limit is not None and limit > most:
        problems.argument("/page/limit", f"must be at most {most}: ask for the rest with page.start", limit)
    problems.raise_if_any()
    return Wanted(
        conditions=conditions,
        orders=orders,
        fields=frozenset(question.fields or ()),
        start=paging.start,
        limit=limit,
        counted=not question.disable_counter,
    )


def conditions_of(selection: Selection, fields: Mapping[str, cmdb_conditions.Field]) -> list[Condition]:
    """Return what must hold of the documents that are selected.

    Raises:
        InvalidArgument: It names each field, operator and value that is not possible.

    """
    problems = Problems("the body")
    conditions = _all_conditions(selection, fields, problems)
    problems.raise_if_any()
    return conditions


def _all_conditions(
    selection: Selection, fields: Mapping[str, cmdb_conditions.Field], problems: Problems
) -> list[Condition]:
    spans = selection.time_condition.rules if selection.time_condition is not None else ()
    return [*_conditions(selection.condition or {}, fields, problems), *_spans(spans, fields, problems)]


def _conditions(
    document: Mapping[str, Any], fields: Mapping[str, cmdb_conditions.Field], problems: Problems
) -> list[Condition]:
    found: list[Condition] = []
    for name, given in document.items():
        pointer = join_pointer(("condition", name))
        if name not in fields:
            problems.argument(pointer, unknown_name(name, fields))
            continue
        comparisons = given if isinstance(given, dict) else {Operator.EQUAL: given}
        if not comparisons:
            problems.argument(pointer, f"compares with nothing: give a value, or one of {', '.join(Operator)}")
        found += [
            Condition(name, Operator(operator), value)
            for operator, raw in comparisons.items()
            if (value := _compared(operator, raw, fields[name].sort, f"{pointer}/{operator}", problems)) is not None
        ]
    return found


def _compared(operator: str, raw: Any, sort: Sort, pointer: str, problems: Problems) -> Any | None:
    """Return the value to compare with; None when there is a problem with it."""
    if operator not in list(Operator):
        problems.argument(pointer, f"is not an operator here: use {', '.join(Operator)}")
        return None
    if operator not in _LISTS:
        return _value(raw, sort, pointer, problems)
    if not isinstance(raw, list):
        problems.argument(pointer, "must be an array", raw)
        return None
    if len(raw) > _MAX_VALUES:
        problems.argument(pointer, f"has {len(raw)} values, at most {_MAX_VALUES} are compared: ask several times")
        return None
    values = [_value(one, sort, f"{pointer}/{at}", problems) for at, one in enumerate(raw)]
    return None if None in values else tuple(values)


def _value(raw: Any, sort: Sort, pointer: str, problems: Problems) -> Any | None:
    value, otherwise = _READERS[sort](raw)
    if value is None:
        problems.argument(pointer, otherwise, raw)
    return value


def _number(raw: Any) -> tuple[Any, str]:
    # Go's JSON has one sort of number: whoever copies a document through it may write 5 as 5.0.
    whole = int(raw) if isinstance(raw, float) and raw.is_integer() else raw
    fits = isinstance(whole, int) and not isinstance(whole, bool) and whole in _BIGINT
    return whole if fits else None, "must be a whole number of at most 64 bits"


def _text(raw: Any) -> tuple[Any, str]:
    text = _text_of_number(raw)
    fits = isinstance(text, str) and not any(find_unstorable(text, depth=1))
    return text if fits else None, "must be a text without NUL and half surrogate pairs"


def _status(raw: Any) -> tuple[Any, str]:
    return raw if raw in list(Word) else None, f"must be one of {', '.join(Word)}"


def _time(raw: Any) -> tuple[Any, str]:
    return _moment(raw), _TIME_WORDS


_READERS = {Sort.NUMBER: _number, Sort.TEXT: _text, Sort.STATUS: _status, Sort.TIME: _time}


def _moment(raw: Any) -> datetime | None:
    """Return the time; one without an offset is taken in this server's time zone, as the original does."""
    if not isinstance(raw, str) or not _TIME.fullmatch(raw):
        return None
    try:
        return datetime.fromisoformat(raw.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _spans(
    rules: Sequence[TimeRule], fields: Mapping[str, cmdb_conditions.Field], problems: Problems
) -> list[Condition]:
    found: list[Condition] = []
    times = {name for name, field in fields.items() if field.sort is Sort.TIME}
    for at, rule in enumerate(rules):
        pointer = f"/time_condition/rules/{at}"
        if rule.field not in times:
            problems.argument(f"{pointer}/field", unknown_name(rule.field, times, sort="time"), rule.field)
            continue
        ends = {Operator.AT_LEAST: ("start", rule.start), Operator.AT_MOST: ("end", rule.end)}
        if rule.start is None and rule.end is None:
            problems.argument(pointer, "has neither start nor end: give one of them, or both")
        found += [
            Condition(rule.field, operator, value)
            for operator, (end, raw) in ends.items()
            if raw is not None and (value := _end(raw, f"{pointer}/{end}", problems)) is not None
        ]
    return found


def _end(raw: str | int, pointer: str, problems: Problems) -> datetime | None:
    """Return the end of a span, which may also be given in seconds since the epoch; None when there is a problem with it."""
    if not isinstance(raw, int):
        value: datetime | None = _value(raw, Sort.TIME, pointer, problems)
        return value
    try:
        return datetime.fromtimestamp(raw, UTC)
    except (ValueError, OverflowError, OSError):
        problems.argument(pointer, _TIME_WORDS)
        return None


def _orders(sort: str, fields: Mapping[str, cmdb_conditions.Field], problems: Problems) -> list[Order]:
    """Read `-create_time,task_id`, also written `create_time:-1,task_id:1`."""
    found: list[Order] = []
    for one in filter(None, (part.strip() for part in sort.split(","))):
        name, _, direction = one.partition(":")
        plain = name.lstrip("+-")
        if plain not in fields or direction.strip() not in {"", "1", "-1"} or len(name) - len(plain) > 1:
            problems.argument("/page/sort", f"{unknown_name(plain, fields)}; write -create_time or create_time:-1", one)
            continue
        found.append(Order(plain, descending=name.startswith("-") or direction.strip() == "-1"))
    return found
