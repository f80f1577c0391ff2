"""Conditions on the two documents of the BK-CMDB dialect, as SQL: fixed texts chosen by field and operator.

What a request gives travels as parameters only. A field that is in neither table here cannot be asked for. The words for
states stand here once, and make both what is shown and what can be filtered by.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from schema.states import SubtaskState, TaskState


class Operator(StrEnum):
    """The operators of conditions; all others are refused."""

    EQUAL = "$eq"
    AMONG = "$in"
    NOT_AMONG = "$nin"
    NOT_EQUAL = "$ne"
    GREATER = "$gt"
    AT_LEAST = "$gte"
    LESS = "$lt"
    AT_MOST = "$lte"


class Sort(StrEnum):
    """What sort of value a field has."""

    TEXT = "text"
    NUMBER = "number"
    TIME = "time"
    STATUS = "status"


class Word(StrEnum):
    """The states of tasks and subtasks; `need_sync` is never stored, and so finds nothing."""

    NEW = "new"
    WAITING = "waiting"
    EXECUTING = "executing"
    FINISHED = "finished"
    FAILURE = "failure"
    NEED_SYNC = "need_sync"


TASK_WORDS: Mapping[TaskState, Word] = MappingProxyType(
    {
        TaskState.CREATED: Word.NEW,
        TaskState.RUNNING: Word.EXECUTING,
        TaskState.SUSPENDED: Word.WAITING,
        TaskState.SUCCESSFUL: Word.FINISHED,
        TaskState.FAILED: Word.FAILURE,
        TaskState.REVOKED: Word.FAILURE,
        TaskState.ROLLED_BACK: Word.FAILURE,
    }
)
SUBTASK_WORDS: Mapping[SubtaskState, Word] = MappingProxyType(
    {
        SubtaskState.PENDING: Word.NEW,
        SubtaskState.READY: Word.NEW,
        SubtaskState.RUNNING: Word.EXECUTING,
        SubtaskState.CANCELING: Word.EXECUTING,
        SubtaskState.SUCCESSFUL: Word.FINISHED,
        SubtaskState.FAILED: Word.FAILURE,
    }
)


def _words(column: str, words: Mapping[Any, Word]) -> str:
    cases = " ".join(f"WHEN '{state}' THEN '{word}'" for state, word in words.items())
    return f"CASE {column} {cases} END"


# A task that waits for another one to settle; a subtask that has begun before, and is to run again.
TASK_STATUS = f"CASE WHEN t.queued_key IS NOT NULL THEN '{Word.WAITING}' ELSE {_words('t.state', TASK_WORDS)} END"
SUBTASK_STATUS = (
    "CASE WHEN s.state IN ('PENDING', 'READY') AND s.attempted_at IS NOT NULL AND s.gate IS DISTINCT FROM 'undone'"
    f" THEN '{Word.WAITING}' ELSE {_words('s.state', SUBTASK_WORDS)} END"
)
HISTORY_STATUS = _words("h.state", TASK_WORDS)


# Who a task is for: the user that its request named, else who made it. The history keeps the same, by its trigger.
TASK_USER = "coalesce(t.header ->> 'X-Bkcmdb-User', t.header ->> 'BK_User', t.creator)"


def _as_given(value: Any) -> Any:
    return value


def _task_hex(object_id: str) -> str:
    return object_id + "0" * 8


def _milliseconds(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def _without_microseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a document: where it stands, and how a value is given to PostgreSQL to be compared with it."""

    column: str
    sort: Sort
    cast: str
    stored: Callable[[Any], Any] = _as_given

    @property
    def ordered(self) -> str:
        """The expression to compare by size and to sort by: texts by their characters' numbers, as in the original."""
        return f'({self.column}) COLLATE "C"' if self.cast == "text" else self.column


def _text(column: str) -> Field:
    return Field(column, Sort.TEXT, "text")


# An `_id` is the part of a task's hex id that it has for itself. Times are compared as they are shown, in milliseconds.
TASK_FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "_id": Field("t.task_id", Sort.TEXT, "text", _task_hex),
        "task_id": _text("t.task_id"),
        "task_type": _text("t.task_type"),
        "bk_inst_id": Field("t.instance_id", Sort.NUMBER, "bigint"),
        "extra": _text("t.extra"),
        "user": _text(TASK_USER),
        "status": Field(TASK_STATUS, Sort.STATUS, "text"),
        "bk_supplier_account": _text("t.account"),
        "create_time": Field("t.created_at", Sort.TIME, "bigint", _milliseconds),
        "last_time": Field("t.updated_at", Sort.TIME, "bigint", _milliseconds),
    }
)
HISTORY_FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "_id": Field("h.task_hex", Sort.TEXT, "text", _task_hex),
        "task_id": _text("h.task_hex"),
        "task_type": _text("h.task_type"),
        "bk_inst_id": Field("h.instance_id", Sort.NUMBER, "bigint"),
        "extra": _text("h.extra"),
        "creator": _text("h.creator"),
        "status": Field(HISTORY_STATUS, Sort.STATUS, "text"),
        "bk_supplier_account": _text("h.account"),
        "create_time": Field(
            "date_trunc('milliseconds', h.created_at)", Sort.TIME, "timestamptz", _without_microseconds
        ),
        "last_time": Field("date_trunc('milliseconds', h.updated_at)", Sort.TIME, "timestamptz", _without_microseconds),
    }
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; the value of `$in` and `$nin` is a tuple."""

    field: str
    operator: Operator
    value: Any


@dataclass(frozen=True, slots=True)
class Order:
    """One sort criterion."""

    field: str
    descending: bool


# As in the original, what has no value is unlike every value.
_EXPRESSIONS: Mapping[Operator, str] = MappingProxyType(
    {
        Operator.EQUAL: "{column} = CAST({value} AS {cast})",
        Operator.AMONG: "{column} = ANY (CAST({value} AS {cast}[]))",
        Operator.NOT_AMONG: "({column} = ANY (CAST({value} AS {cast}[]))) IS NOT TRUE",
        Operator.NOT_EQUAL: "({column} = CAST({value} AS {cast})) IS NOT TRUE",
        Operator.GREATER: "{ordered} > CAST({value} AS {cast})",
        Operator.AT_LEAST: "{ordered} >= CAST({value} AS {cast})",
        Operator.LESS: "{ordered} < CAST({value} AS {cast})",
        Operator.AT_MOST: "{ordered} <= CAST({value} AS {cast})",
    }
)


def where(conditions: Sequence[Condition], fields: Mapping[str, Field]) -> tuple[str, dict[str, Any]]:
    """Return the conditions as SQL to stand behind another, and its parameters; unknown fields are a KeyError."""
    parts: list[str] = []
    parameters: dict[str, Any] = {}
    for number, condition in enumerate(conditions):
        field, name = fields[condition.field], f"condition_{number}"
        expression = _EXPRESSIONS[condition.operator]
        parts.append(
            " AND " + expression.format(column=field.column, ordered=field.ordered, value=f":{name}", cast=field.cast)
        )
        given = condition.value
        parameters[name] = [field.stored(one) for one in given] if isinstance(given, tuple) else field.stored(given)
    return "".join(parts), parameters


def order_by(orders: Sequence[Order], fields: Mapping[str, Field], last: str) -> str:
    """Return the sort criteria as SQL; `last` makes the order total, so that nothing is on two pages."""
    directions = {True: "DESC", False: "ASC"}
    clauses = [f"{fields[one.field].ordered} {directions[one.descending]}" for one in orders]
    # In the direction of what comes before it, or no index could give the order.
    return ", ".join([*clauses, f"{last} {directions[bool(orders) and orders[-1].descending]}"])
