"""The envelope, errors and submission, through the whole application."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import Engine

from schema.database import make_engine, transaction
from schema.kinds import KindInfo
from schema.migration import head_revision
from schema.transitions.registrations import register_kinds
from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import PREFIX, ApiClient, running_api
from tests.factories import make_task, one

MEMBERS = {"successful", "timestamp", "duration", "status", "traceId", "server"}


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url, max_submission_bytes=20_000) as api:
        yield api


@pytest.fixture
def kinds(engine: Engine) -> None:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")


def document(**fields: Any) -> dict[str, Any]:
    subtasks = [{"key": "a", "kind": "test.kind"}, {"key": "b", "kind": "test.kind", "upstreams": ["a"]}]
    return {"name": "made", "subtasks": subtasks, **fields}


def test_every_answer_is_in_the_envelope_and_carries_the_callers_trace(api: ApiClient) -> None:
    response = api.get("/instances", headers={"x-trace-id": "abc-123"})
    body = response.json()

    assert set(body) == MEMBERS | {"data"}
    assert (body["traceId"], body["status"], body["successful"]) == ("abc-123", 200, True)


def test_an_unknown_address_is_20000_in_the_envelope(api: ApiClient) -> None:
    for path in ("/nothing", "//", "//api/v2", "/instances/", "/instances/1/nothing"):
        response = api.get(path)

        assert response.status_code == 404
        assert set(response.json()) == MEMBERS | {"error"}
        assert response.json()["error"]["code"] == 20000


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/instances", "GET, POST"),
        ("POST", "/instances/1", "GET"),
        ("PUT", "/principals/bob", "DELETE"),
        ("GET", "/principals/bob/rotate", "POST"),
    ],
)
def test_a_method_that_is_not_there_is_405_and_names_those_that_are(
    api: ApiClient, method: str, path: str, allowed: str
) -> None:
    response = api.request(method, path)

    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert set(response.json()) == MEMBERS | {"error"}


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/instances/abc", "id", "abc"),
        ("/instances/1.5/status", "id", "1.5"),
        ("/instances/99999999999999999999", "id", "99999999999999999999"),
        ("/instances/1/subtasks/x", "sid", "x"),
        ("/instances?size=2001", "size", "2001"),
        ("/instances?page=0", "page", "0"),
        ("/instances?clusterId=x", "clusterId", "x"),
        ("/instances?name=%00", "name", "\x00"),
        ("/instances/1/status?waitSeconds=61", "waitSeconds", "61"),
        ("/instances/1/status?waitSeconds=nan", "waitSeconds", "nan"),
        ("/instances/1/status?until=later", "until", "later"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value(api: ApiClient, path: str, field: str, value: str) -> None:
    error = api.error(path, 400)

    assert error["code"] == 10001
    assert [(one["field"], one["rejectedValue"]) for one in error["subErrors"]] == [(field, value)]
    assert field in error["message"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/instances/abc", "parameter id must be a whole number: give digits only (given: 'abc')"),
        ("/instances/0", "parameter id must be at least 1 (given: '0')"),
        ("/instances?name=%00", "parameter name must not hold the character U+0000"),
        ("/instances?name=" + "x" * 501, "parameter name must be at most 500 characters"),
        ("/instances?type=ODD", "parameter type must be one of 'MANUAL', 'SYS_ONCE'"),
        ("/instances?status=ODD", "parameter status names 'ODD': use RUNNING, FAILED, SUCCESSFUL"),
        ("/instances/1/status?waitSeconds=x", "parameter waitSeconds must be a number (given: 'x')"),
        ("/instances/status", "parameter ids is required: add it"),
        ("/instances/status?ids=a", "parameter ids must be whole numbers with commas between, such as 1,2,3"),
        ("/instances/1/subtasks/1/log?after=x", "parameter after must be the cursor of an earlier answer"),
    ],
)
def test_a_wrong_parameter_is_told_in_plain_words_with_the_cure(api: ApiClient, path: str, message: str) -> None:
    assert api.error(path, 400)["message"].startswith(message)


@pytest.mark.parametrize(
    ("path", "field", "message"),
    [
        ("/instances?staus=FAILED", "staus", "is not a parameter here: did you mean status?"),
        ("/instances?cluster_id=1", "cluster_id", "is not a parameter here: did you mean clusterId?"),
        ("/instances?size=1&foo=bar", "foo", "is not a parameter here: leave it out; the parameters are clusterId, "),
        ("/instances/1?foo=", "foo", "is not a parameter here: leave it out; there are none"),
        ("/instances/1/status?waitsecond=1", "waitsecond", "is not a parameter here: did you mean waitSeconds?"),
        ("/instances/1/subtasks/1/log?id=1", "id", "is not a parameter here: leave it out"),
        ("/kinds?a=b", "a", "is not a parameter here: leave it out; there are none"),
        ("/principals?a=b", "a", "is not a parameter here: leave it out; there are none"),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_one_that_may_be_meant(
    api: ApiClient, path: str, field: str, message: str
) -> None:
    error = api.error(path, 400)

    assert (error["code"], error["target"]) == (10001, field)
    assert [one["field"] for one in error["subErrors"]] == [field]
    assert error["message"].startswith(f"{field}: {message}")


@pytest.mark.parametrize("path", ["/instances", "/instances/status?ids=1&", "/kinds", "/principals", "//api/v1/tasks"])
def test_what_browsers_add_against_their_cache_is_taken_everywhere(api: ApiClient, path: str) -> None:
    asked = f"{path}{'' if '?' in path else '?'}_=1795313366000"

    assert api.get(asked).status_code == 200
    assert api.get(f"{asked}&__=1").status_code == 400


def test_every_unknown_parameter_is_named(api: ApiClient) -> None:
    assert [one["field"] for one in api.error("/instances?foo=1&bar=2&foo=3", 400)["subErrors"]] == ["foo", "bar"]


def test_who_is_not_known_is_not_told_about_parameters(api: ApiClient) -> None:
    assert api.bearing(None).error("/instances?foo=bar", 401)["code"] == 30001


def test_what_is_asked_without_a_credential_takes_any_parameter(api: ApiClient) -> None:
    for path in ("//healthz", "//readyz", "//openapi.json", "//docs"):
        assert api.get(f"{path}?foo=bar").status_code == 200


@pytest.mark.parametrize("path", ["//healthz", "//readyz"])
def test_health_can_be_asked_by_head(api: ApiClient, path: str) -> None:
    response = api.bearing(None).request("HEAD", path)

    assert response.status_code == 200
    assert api.request("DELETE", path).headers["allow"] == "GET, HEAD"


def test_a_task_that_is_not_there_is_404(api: ApiClient) -> None:
    for path in ("", "/status", "/plan", "/operations", "/subtasks/1", "/subtasks/1/log"):
        assert api.error(f"/instances/4711{path}", 404)["code"] == 20000


def test_a_subtask_of_another_task_is_404(api: ApiClient, engine: Engine) -> None:
    mine, other = make_task(engine, {"a": ()}), make_task(engine, {"a": ()})

    for path in ("", "/log"):
        error = api.error(f"/instances/{mine.id}/subtasks/{other.ids['a']}{path}", 404)
        assert (error["code"], error["target"]) == (20000, str(other.ids["a"]))


@pytest.mark.usefixtures("kinds")
def test_a_submitted_task_is_answered_with_its_detail(api: ApiClient, engine: Engine) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    response = api.post("/instances", json=document(), headers={"x-trace-id": "t-1", "traceparent": parent})
    data = response.json()["data"]

    assert response.status_code == 201
    assert response.headers["location"] == f"{PREFIX}/instances/{data['id']}"
    assert (data["name"], data["state"], data["creator"]["name"]) == ("made", "CREATED", "admin")
    assert [one["key"] for one in data["subtasks"]] == ["a", "b"]
    stored = one(engine, "SELECT trace_id, traceparent FROM tasks WHERE id = :id", id=data["id"])
    assert tuple(stored.values()) == ("t-1", parent)


@pytest.mark.usefixtures("kinds")
def test_a_duplicate_is_refused_and_names_its_holder(api: ApiClient) -> None:
    first = api.post("/instances", json=document(instanceId=42)).json()["data"]["id"]

    refused = api.post("/instances", json=document(instanceId=42))
    returned = api.post("/instances", json=document(instanceId=42, onDuplicate="return"))

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, 20005)
    assert refused.json()["error"]["target"] == str(first)
    assert (returned.status_code, returned.json()["data"]["id"]) == (200, first)


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"name": "x", "name": "y"}', 400, 10001),
        (b'{"name": NaN}', 400, 10001),
        (b"\xff", 400, 10001),
        (b"[" * 5_000, 400, 10001),
        (b"[]", 400, 10001),
        (b'{"subtasks": [{"key": "a", "kind": "unknown"}]}', 400, 20001),
        (b'{"subtasks": [{"key": "a", "kind": "test.kind", "upstreams": ["a"]}]}', 400, 20001),
        (b'{"name": "' + b"x" * 20_000 + b'"}', 413, 10002),
    ],
)
def test_a_wrong_submission_stores_nothing(api: ApiClient, engine: Engine, body: bytes, status: int, code: int) -> None:
    response = api.post("/instances", content=body)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert one(engine, "SELECT count(*) AS n FROM tasks")["n"] == 0


def test_a_body_without_announced_length_is_cut_off_too(api: ApiClient) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 1_000

    class Stream:
        async def __aiter__(self) -> Any:
            for part in parts():
                yield part

    assert api.post("/instances", content=Stream()).status_code == 413


def test_a_database_that_is_away_is_503_and_comes_with_retry_after(stack: EmbeddedStack, api: ApiClient) -> None:
    services = api.app.state.services
    nowhere = make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", name="away")
    api.data("/kinds")  # so that who asks is known
    for which in ("engine", "health_engine"):
        object.__setattr__(services, which, nowhere)

    response = api.get("/kinds")
    ready = api.get("//readyz")

    assert (response.status_code, response.json()["error"]["code"]) == (503, 10003)
    assert response.headers["retry-after"] == "1"
    assert ready.status_code == 503
    assert [one["field"] for one in ready.json()["error"]["subErrors"]] == ["database"]
    assert api.get("//healthz").status_code == 200
    nowhere.dispose()


def test_what_nobody_expected_is_500_without_its_reason(api: ApiClient, engine: Engine, caplog: Any) -> None:
    with transaction(engine) as connection:
        connection.exec_driver_sql("ALTER TABLE kinds RENAME TO hidden")

    response = api.get("/kinds", headers={"x-trace-id": "find-me"})

    assert (response.status_code, response.json()["error"]["code"]) == (500, 10000)
    assert "find-me" in response.json()["error"]["message"]
    assert "hidden" not in response.text
    assert "SELECT" not in response.text


def test_the_server_is_ready_when_all_parts_answer(api: ApiClient) -> None:
    ready = api.bearing(None).data("//readyz")

    assert ready == {"database": "ok", "broker": "ok", "migrations": head_revision()}
    assert api.bearing(None).data("//healthz") == {"live": True}


def test_the_document_describes_every_call(api: ApiClient) -> None:
    document = api.get("//openapi.json").json()
    described = {(method.upper(), path) for path, calls in document["paths"].items() for method in calls}
    served = {
        (method, call.path)
        for call in api.app.state.calls
        if isinstance(call, APIRoute) and call.include_in_schema
        for method in call.methods
    }

    assert described == served
    for path, calls in document["paths"].items():
        for call in calls.values():
            assert call["summary"], path
            assert call["description"], path
            assert all(one.get("description") for one in call.get("parameters", ())), path
    schemas = document["components"]["schemas"]
    assert "waitFor" in schemas["SubtaskInput"]["properties"]
    assert "waitReason" in schemas["Subtask"]["properties"]


def test_the_page_lists_every_call_and_loads_nothing(api: ApiClient) -> None:
    page = api.get("//docs").text

    assert f"{PREFIX}/instances/{{id}}/status" in page
    assert "http" not in page.replace('content="http', "")
