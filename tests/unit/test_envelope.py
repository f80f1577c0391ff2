import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from schema.errors import InvalidArgument, SubError
from schema.states import Operation, TaskState
from taskserver.api.bodies import parse_json
from taskserver.api.envelope import answer, failure
from taskserver.api.trace import Trace
from taskserver.projection import Status, operation_of, states_of, status_of, time_of_epoch, wire_time
from taskserver.views.health import Live
from taskserver.views.tasks import Tenant
from taskserver.views.view import View


class Anything(View):
    value: Any = None


def request_with(trace: Trace) -> Request:
    return Request({"type": "http", "taskserver_trace": trace})


def body_of(make: Callable[[Trace], Any]) -> Any:
    return json.loads(make(Trace.of({})).body)


def test_an_answer_has_the_members_of_ocp_and_no_other() -> None:
    body = body_of(lambda trace: answer(request_with(trace), Live()))

    assert list(body) == ["data", "successful", "timestamp", "duration", "status", "traceId", "server"]
    assert body["data"] == {"live": True}
    assert (body["successful"], body["status"]) == (True, 200)


def test_an_answer_without_data_has_no_such_member() -> None:
    assert "data" not in body_of(lambda trace: answer(request_with(trace)))


def test_members_are_absent_when_null_but_what_users_stored_is_kept() -> None:
    tenant = body_of(lambda trace: answer(request_with(trace), Tenant(name="SYS")))["data"]
    stored = body_of(lambda trace: answer(request_with(trace), Anything(value={"x": None, "y": [None]})))["data"]

    assert tenant == {"name": "SYS"}
    assert stored == {"value": {"x": None, "y": [None]}}


def test_an_error_says_what_is_wrong_in_place_of_data() -> None:
    error = InvalidArgument("two", target="/a", sub_errors=(SubError("/a", "bad", 7), SubError("/b", "missing")))

    body = body_of(lambda trace: failure(trace, error))

    assert list(body) == ["error", "successful", "timestamp", "duration", "status", "traceId", "server"]
    assert (body["successful"], body["status"]) == (False, 400)
    assert body["error"] == {
        "code": 10001,
        "type": "InvalidArgument",
        "message": "two",
        "target": "/a",
        "subErrors": [{"field": "/a", "message": "bad", "rejectedValue": 7}, {"field": "/b", "message": "missing"}],
    }


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "line\nfeed", '"', "é"])
def test_a_trace_that_could_harm_a_log_or_a_header_is_replaced(given: str) -> None:
    made = Trace.of({"x-trace-id": given}).id

    assert len(made) == 16
    assert int(made, 16) >= 0


def test_the_callers_trace_is_kept() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    trace = Trace.of({"x-trace-id": "c0ffee-1", "traceparent": parent})

    assert (trace.id, trace.traceparent) == ("c0ffee-1", parent)


@pytest.mark.parametrize(
    ("microsecond", "written"),
    [(0, ""), (120_000, ".12"), (123_456, ".123"), (999_999, ".999"), (999, ""), (5_000, ".005")],
)
def test_zeros_at_the_end_of_a_fraction_are_dropped(microsecond: int, written: str) -> None:
    moment = datetime(2026, 11, 21, 10, 0, 0, microsecond, timezone(timedelta(hours=8)))

    assert wire_time(moment) == f"2026-11-21T10:00:00{written}+08:00"


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
def test_a_written_time_reads_back_to_the_millisecond(moment: datetime) -> None:
    written = wire_time(moment)

    assert written is not None
    assert timedelta(0) <= moment - datetime.fromisoformat(written) < timedelta(milliseconds=1)


@pytest.mark.parametrize("number", [-1, 253_402_300_800_000, 2**63 - 1])
def test_a_column_that_holds_no_time_is_no_time(number: int) -> None:
    assert time_of_epoch(number) is None


def test_every_state_has_one_status_and_every_status_its_states() -> None:
    assert {status: states_of(status) for status in Status} == {
        Status.RUNNING: {TaskState.CREATED, TaskState.RUNNING, TaskState.SUSPENDED},
        Status.FAILED: {TaskState.FAILED, TaskState.REVOKED},
        Status.SUCCESSFUL: {TaskState.SUCCESSFUL, TaskState.ROLLED_BACK},
    }
    assert all(state in states_of(status_of(state)) for state in TaskState)


def test_a_rolled_back_task_is_shown_as_ocp_shows_it() -> None:
    assert operation_of(TaskState.ROLLED_BACK, Operation.EXECUTE) is Operation.ROLLBACK
    assert operation_of(TaskState.REVOKED, Operation.EXECUTE) is Operation.CANCEL
    assert operation_of(TaskState.FAILED, Operation.RETRY) is Operation.RETRY


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[1e999]", "too large"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b"1" * 5_000, "digits"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
    ],
)
def test_a_body_that_is_no_plain_json_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        parse_json(body)

    assert len(caught.value.message) < 200


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_every_document_passes_unchanged(document: object) -> None:
    assert parse_json(json.dumps(document).encode()) == document
