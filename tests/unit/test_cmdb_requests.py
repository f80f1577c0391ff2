"""The questions of the BK-CMDB dialect: what is understood, and what is refused by its name."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from schema.errors import InvalidArgument
from schema.states import SubtaskState, TaskState
from taskserver.dialects.cmdb_requests import Deletion, NewCallbackTask, Question, Wanted, read, wanted
from taskserver.queries.cmdb_conditions import (
    HISTORY_FIELDS,
    SUBTASK_WORDS,
    TASK_FIELDS,
    TASK_WORDS,
    Condition,
    Operator,
    Order,
    where,
)

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


@pytest.fixture
def shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the server stand in another time zone than UTC."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def ask(document: dict[str, Any], *, sortable: bool = True) -> Wanted:
    return wanted(read(Question, document), TASK_FIELDS, most=1_000, sortable=sortable)


def refusal(document: dict[str, Any], *, sortable: bool = True) -> str:
    with pytest.raises(InvalidArgument) as caught:
        ask(document, sortable=sortable)
    return caught.value.message


def test_a_plain_value_must_be_equal() -> None:
    assert ask({"condition": {"task_type": "sync", "bk_inst_id": 5}}).conditions == [
        Condition("task_type", Operator.EQUAL, "sync"),
        Condition("bk_inst_id", Operator.EQUAL, 5),
    ]


@pytest.mark.parametrize("operator", list(Operator))
def test_every_operator_of_the_whitelist_is_taken(operator: Operator) -> None:
    given: Any = [1, 2] if operator in {Operator.AMONG, Operator.NOT_AMONG} else 1
    expected = (1, 2) if isinstance(given, list) else 1

    assert ask({"condition": {"bk_inst_id": {operator: given}}}).conditions == [
        Condition("bk_inst_id", operator, expected)
    ]


def test_several_operators_on_a_field_must_all_hold() -> None:
    conditions = ask({"condition": {"bk_inst_id": {"$gte": 1, "$lt": 9}}}).conditions

    assert conditions == [
        Condition("bk_inst_id", Operator.AT_LEAST, 1),
        Condition("bk_inst_id", Operator.LESS, 9),
    ]


@pytest.mark.parametrize(
    "written",
    [
        "2026-12-01T12:00:00Z",
        "2026-12-01t12:00:00z",
        "2026-12-01T20:00:00+08:00",
        "2026-12-01 20:00:00",
        "2026-12-01T12:00:00.000000000Z",
    ],
)
def test_times_are_taken_as_the_original_writes_them(written: str, shanghai: None) -> None:
    assert ask({"condition": {"create_time": {"$gte": written}}}).conditions == [
        Condition("create_time", Operator.AT_LEAST, NOON)
    ]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-12-01 20:00:00", "2026-12-02"),
        ("2026-12-01T12:00:00Z", "2026-12-02 00:00:00"),
        (1_796_126_400, 1_796_140_800),
    ],
)
def test_a_time_condition_takes_seconds_dates_and_seconds_since_the_epoch(
    start: object, end: object, shanghai: None
) -> None:
    rule = {"field": "create_time", "start": start, "end": end}

    asked = ask({"time_condition": {"oper": "and", "rules": [rule]}})

    assert asked.conditions == [
        Condition("create_time", Operator.AT_LEAST, NOON),
        Condition("create_time", Operator.AT_MOST, datetime(2026, 12, 1, 16, tzinfo=UTC)),
    ]


@pytest.mark.parametrize("seconds", [-(10**14), 10**14, 10**400])
def test_seconds_that_are_no_time_are_refused(seconds: int) -> None:
    rule = {"field": "create_time", "start": seconds}

    assert "must be a time such as" in refusal({"time_condition": {"oper": "and", "rules": [rule]}})


def test_a_time_condition_is_one_more_condition() -> None:
    rule = {"field": "create_time", "start": "2026-12-01T20:00:00+08:00", "end": "2026-12-01T12:00:00Z"}

    asked = ask({"condition": {"status": "new"}, "time_condition": {"oper": "and", "rules": [rule]}})

    assert asked.conditions == [
        Condition("status", Operator.EQUAL, "new"),
        Condition("create_time", Operator.AT_LEAST, NOON),
        Condition("create_time", Operator.AT_MOST, NOON),
    ]


def test_what_clients_of_the_original_leave_empty_says_nothing() -> None:
    asked = ask({"condition": None, "fields": None, "page": {"start": 0}, "time_condition": None})

    assert (asked.conditions, asked.orders, asked.fields, asked.start, asked.limit) == ([], [], frozenset(), 0, None)
    assert asked.counted


FROM_GATEWAY = {"bk_app_code": "app", "bk_app_secret": "s", "bk_username": "u", "bk_supplier_account": "0"}


@pytest.mark.parametrize(
    "document",
    [
        FROM_GATEWAY,
        {"anything": {"else": [1]}},
        {"page": {"start": 0, "enable_count": True, "total": 5}},
        {"time_condition": {"oper": "and", "rules": [{"field": "create_time", "end": "2026-12-01", "x": 1}], "y": 2}},
    ],
)
def test_members_that_nobody_knows_are_passed_over_as_the_original_does(document: dict[str, Any]) -> None:
    asked = ask({"condition": {"bk_inst_id": 5}, **document})

    assert asked.conditions[0] == Condition("bk_inst_id", Operator.EQUAL, 5)
    assert asked.counted


def test_null_is_what_was_not_given() -> None:
    asked = ask({"page": {"start": None, "limit": None, "sort": None}, "disable_counter": None})
    task = read(NewCallbackTask, {"task_type": "sync", "bk_inst_id": None, "extra": None, "data": [None]})

    assert (asked.start, asked.limit, asked.orders, asked.counted) == (0, None, [], True)
    assert (task.bk_inst_id, task.extra, task.data) == (0, "", [None])


def test_a_whole_number_may_have_a_fraction_of_nothing() -> None:
    asked = ask({"condition": {"bk_inst_id": {"$in": [5.0, 1e3]}}})

    assert asked.conditions == [Condition("bk_inst_id", Operator.AMONG, (5, 1_000))]
    assert all(type(one) is int for one in asked.conditions[0].value)


def test_a_deletion_is_read_by_the_letter() -> None:
    read(Deletion, {"condition": {"bk_inst_id": 1}, **FROM_GATEWAY})

    for unknown in ("page", "time_conditions"):
        with pytest.raises(InvalidArgument, match=f"/{unknown}: is not a field here"):
            read(Deletion, {"condition": {"bk_inst_id": 1}, unknown: {"limit": 1}})


@pytest.mark.parametrize(
    ("sort", "orders"),
    [
        ("create_time", [Order("create_time", descending=False)]),
        ("+create_time", [Order("create_time", descending=False)]),
        ("-create_time", [Order("create_time", descending=True)]),
        ("create_time:-1", [Order("create_time", descending=True)]),
        ("-status, task_id:1,", [Order("status", descending=True), Order("task_id", descending=False)]),
        ("", []),
    ],
)
def test_an_order_is_read_in_all_its_spellings(sort: str, orders: list[Order]) -> None:
    assert ask({"page": {"start": 0, "sort": sort}}).orders == orders


@pytest.mark.parametrize(("limit", "expected"), [(0, None), (999_999_999, None), (1, 1), (1_000, 1_000)])
def test_no_limit_is_written_as_the_original_does(limit: int, expected: int | None) -> None:
    assert ask({"page": {"start": 3, "limit": limit}}).limit == expected


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"condition": {"$or": [{"status": "new"}]}}, "/condition/$or: is not a field here"),
        ({"condition": {"detail.data": 1}}, "/condition/detail.data: is not a field here"),
        ({"condition": {"statu": "new"}}, "did you mean status?"),
        ({"condition": {"creator": "me"}}, "/condition/creator: is not a field here"),
        (
            {"condition": {"task_id": {"$regex": ".*"}}},
            "/condition/task_id/$regex: is not an operator here: use $eq, $in",
        ),
        ({"condition": {"task_id": {"$not": {"$eq": 1}}}}, "/condition/task_id/$not: is not an operator"),
        ({"condition": {"task_id": {}}}, "/condition/task_id: compares with nothing"),
        ({"condition": {"task_id": None}}, "/condition/task_id/$eq: must be a text"),
        ({"condition": {"task_id": ["a"]}}, "/condition/task_id/$eq: must be a text"),
        ({"condition": {"task_id": {"$eq": {"$gt": ""}}}}, "/condition/task_id/$eq: must be a text"),
        ({"condition": {"task_id": "a\x00b"}}, "/condition/task_id/$eq: must be a text without NUL"),
        ({"condition": {"task_id": {"$in": ["\ud800"]}}}, "/condition/task_id/$in/0: must be a text"),
        ({"condition": {"bk_inst_id": "5"}}, "/condition/bk_inst_id/$eq: must be a whole number"),
        ({"condition": {"bk_inst_id": True}}, "must be a whole number"),
        ({"condition": {"bk_inst_id": 5.5}}, "must be a whole number"),
        ({"condition": {"bk_inst_id": 1e300}}, "must be a whole number of at most 64 bits"),
        ({"condition": {"bk_inst_id": 2**63}}, "must be a whole number of at most 64 bits"),
        ({"condition": {"bk_inst_id": {"$in": 5}}}, "/condition/bk_inst_id/$in: must be an array"),
        ({"condition": {"bk_inst_id": {"$in": [5, None]}}}, "/condition/bk_inst_id/$in/1: must be a whole number"),
        ({"condition": {"bk_inst_id": {"$in": [1] * 10_001}}}, "at most 10000 are compared: ask several times"),
        ({"condition": {"status": "done"}}, "must be one of new, waiting, executing, finished, failure, need_sync"),
        ({"condition": {"create_time": 1_700_000_000}}, "must be a time such as"),
        ({"condition": {"create_time": "2026-13-01T00:00:00Z"}}, "must be a time such as"),
        ({"condition": {"create_time": "0001-01-01T00:00:00+14:00"}}, "must be a time such as"),
        ({"condition": []}, "/condition: must be an object"),
        ({"time_condition": {"oper": "or", "rules": []}}, "/time_condition/oper: must be one of 'and'"),
        (
            {"time_condition": {"oper": "and", "rules": [{"field": "status", "start": "2026-12-01T12:00:00Z"}]}},
            "/time_condition/rules/0/field: is not a time here",
        ),
        (
            {"time_condition": {"oper": "and", "rules": [{"field": "create_time"}]}},
            "/time_condition/rules/0: has neither start nor end",
        ),
        (
            {"time_condition": {"oper": "and", "rules": [{"field": "create_time", "start": "soon"}]}},
            "/time_condition/rules/0/start: must be a time",
        ),
        ({"page": {"start": -1}}, "/page/start: must be at least 0"),
        ({"page": {"start": 0, "limit": 1_001}}, "/page/limit: must be at most 1000"),
        ({"page": {"sort": "detail"}}, "/page/sort: is not a field here"),
        ({"page": {"sort": "--status"}}, "/page/sort"),
        ({"page": {"sort": "status:2"}}, "/page/sort"),
        ({"page": {"sort": "status; DROP TABLE tasks"}}, "/page/sort: is not a field here"),
        ({"fields": "task_id"}, "/fields: must be an array"),
        ({"disable_counter": 1}, "/disable_counter: must be true or false"),
    ],
)
def test_anything_else_is_refused_by_its_name(document: dict[str, Any], said: str) -> None:
    assert said in refusal(document)


def test_the_newest_cannot_be_sorted() -> None:
    assert "/page/sort: is not possible" in refusal({"page": {"sort": "-create_time"}}, sortable=False)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        ask({"condition": {"status": "done", "bk_inst_id": "5"}, "page": {"sort": "header"}})

    assert [one.field for one in caught.value.sub_errors] == [
        "/condition/status/$eq",
        "/condition/bk_inst_id/$eq",
        "/page/sort",
    ]


def test_values_never_become_a_part_of_the_statement() -> None:
    hostile = "' OR 1 = 1; --"
    asked = ask({"condition": {name: {"$ne": hostile} for name in ("task_id", "task_type", "extra", "user", "_id")}})

    for fields in (TASK_FIELDS, {**HISTORY_FIELDS, "user": HISTORY_FIELDS["creator"]}):
        statement, parameters = where(asked.conditions, fields)

        assert hostile not in statement
        assert all(str(value).startswith(hostile) for value in parameters.values())
        assert len(parameters) == 5


def test_every_state_has_a_word() -> None:
    assert set(TASK_WORDS) == set(TaskState)
    assert set(SUBTASK_WORDS) == set(SubtaskState)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"bk_inst_id": 1, "data": [1]}, "/task_type: is required"),
        ({"task_type": " ", "bk_inst_id": 1, "data": [1]}, "/task_type: must not be empty"),
        ({"task_type": "sync", "data": []}, "/data: must have at least 1 element(s)"),
        ({"task_type": "sync"}, "/data: is required"),
        ({"task_type": "sync", "data": {"a": 1}}, "/data: must be an array"),
        ({"task_type": "sync", "bk_inst_id": "1", "data": [1]}, "/bk_inst_id: must be a whole number"),
        ({"task_type": "sync", "bk_inst_id": 2**63, "data": [1]}, "/bk_inst_id: must be at most"),
        ({"task_type": "sync", "extra": {}, "data": [1]}, "/extra: must be a text"),
        ([], "must be an object"),
        (None, "must be an object"),
    ],
)
def test_a_task_that_cannot_be_made_is_refused_by_what_is_wrong(document: object, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(NewCallbackTask, document)

    assert said in caught.value.message


def test_a_task_is_read_as_clients_of_the_original_write_it() -> None:
    task = read(NewCallbackTask, {"task_type": " sync ", "bk_inst_id": 7, "extra": 12, "data": [{"a": 1}, 2, None]})

    assert (task.task_type, task.bk_inst_id, task.extra, task.data) == ("sync", 7, "12", [{"a": 1}, 2, None])
