"""bk-sops' `get_task_status` as its clients call it: parameters, credentials, answers and refusals, on a real database."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from jsonschema_rs import validator_for
from sqlalchemy import Engine
from structlog.testing import capture_logs

from schema.database import make_engine
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role, Tokens, create_principal
from tests.api_client import SECRET_KEY, ApiClient, running_api
from tests.factories import StoredTask, execute, make_task
from tests.integration.test_queries_statements import counted
from tests.operators import COURSES, use

PATH = "//api/c/compapi/v2/sops/get_task_status/"
MEMBERS = {
    "id": str,
    "parent_id": str,
    "state": str,
    "name": str,
    "version": str,
    "loop": int,
    "retry": int,
    "skip": bool,
    "error_ignorable": bool,
    "error_ignored": bool,
    "start_time": str,
    "finish_time": str,
    "elapsed_time": int,
    "children": dict,
}
SEED_MEMBERS = {"retry", "name", "finish_time", "skip", "start_time", "children", "state", "version", "id", "loop"}
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}")
Parameters = dict[str, object]


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


@pytest.fixture
def secret(engine: Engine, api: ApiClient) -> str:
    row = create_principal(engine, name="esb_test", role=Role.TASK_VIEWER, account="0")
    return Tokens(SECRET_KEY).token(row.name, row.serial)


@pytest.fixture
def caller(api: ApiClient) -> ApiClient:
    """A client without a header that bears a credential."""
    return api.bearing(None)


@pytest.fixture
def credential(secret: str) -> Parameters:
    return {"bk_app_code": "esb_test", "bk_app_secret": secret}


@pytest.fixture
def task(engine: Engine) -> StoredTask:
    stored = make_task(engine, {"start": (), "deploy": ("start",), "report": ("deploy",)}, name="job", biz_id="2")
    stored.run("start")
    stored.run("deploy", verdict="FAILED", error_type="ValueError", error_message="no disk")
    return stored


def answered(response: httpx.Response) -> Any:
    """Return the data of a call that worked."""
    assert (response.status_code, response.json()["result"]) == (200, True), response.text
    assert {name: one for name, one in response.json().items() if name in {"code", "message"}} == {
        "code": 0,
        "message": "",
    }
    return response.json()["data"]


def refused(response: httpx.Response, code: int, *, status: int = 200) -> str:
    """Return the message of a call that was refused."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.json()["result"] is False
    assert response.json()["data"] is None
    assert response.json()["message"]
    return str(response.json()["message"])


def nodes_of(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield data
    for child in data["children"].values():
        yield from nodes_of(child)


def by_name(data: Mapping[str, Any]) -> dict[str, Any]:
    return {one["name"]: one for one in data["children"].values()}


def asked(api: ApiClient, task: StoredTask, **parameters: object) -> Any:
    """Ask with the credential in a header."""
    return answered(api.get(PATH, params={"bk_biz_id": "2", "task_id": task.id, **parameters}))


def test_the_seeds_own_example_is_answered_as_the_seed_says(
    caller: ApiClient, task: StoredTask, credential: Parameters
) -> None:
    example = {**credential, "bk_token": "xxx", "bk_biz_id": "2", "task_id": str(task.id)}

    data = answered(caller.get(PATH, params=example))

    assert data["id"] == task.column("task_id")
    assert (data["state"], data["name"], data["version"], data["finish_time"]) == ("FAILED", "job", "", "")
    assert (data["retry"], data["skip"], data["loop"], data["parent_id"]) == (0, False, 1, "")
    nodes = by_name(data)
    assert {name: one["state"] for name, one in nodes.items()} == {
        "start": "FINISHED",
        "deploy": "FAILED",
        "report": "CREATED",
    }
    assert nodes["deploy"]["retry"] == 0
    assert all(one["parent_id"] == data["id"] for one in nodes.values())
    assert "ex_data" not in data


@pytest.mark.parametrize("course", list(COURSES))
def test_every_member_of_the_seed_is_there_with_its_type_in_each_course(
    api: ApiClient, engine: Engine, course: str
) -> None:
    make, state, _ = COURSES[course]
    data = asked(api, make(engine), with_ex_data=1)

    reasons = data.pop("ex_data")
    shown = {"SUCCESSFUL": "FINISHED", "ROLLED_BACK": "REVOKED"}.get(state, state)
    assert data["state"] == shown
    assert data["children"]
    for one in nodes_of(data):
        assert SEED_MEMBERS <= one.keys() == MEMBERS.keys()
        assert {name: type(value) for name, value in one.items()} == MEMBERS
        assert all(not one[name] or TIME.fullmatch(one[name]) for name in ("start_time", "finish_time"))
        assert one["state"] in {"CREATED", "RUNNING", "FAILED", "SUSPENDED", "REVOKED", "FINISHED"}
    for key, child in data["children"].items():
        assert key == child["id"]
        assert re.fullmatch("[0-9a-f]{32}", key)
        assert re.fullmatch("[0-9a-f]{32}", child["version"])
    assert reasons.keys() == {key for key, child in data["children"].items() if child["state"] == "FAILED"}


def test_a_task_is_found_by_its_number_and_its_hex_id_in_any_case(api: ApiClient, task: StoredTask) -> None:
    data = asked(api, task)

    assert asked(api, task, task_id=data["id"]) == data
    assert asked(api, task, task_id=data["id"].upper()) == data


def test_a_node_is_answered_alone_with_its_reason_if_asked(api: ApiClient, task: StoredTask) -> None:
    failed = by_name(asked(api, task))["deploy"]

    assert asked(api, task, task_id=failed["id"]) == failed
    told = asked(api, task, task_id=failed["id"], with_ex_data="true")
    assert told == {**failed, "ex_data": {failed["id"]: "ValueError: no disk"}}


@pytest.mark.parametrize(("written", "is_there"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_reasons_are_told_when_asked_for(api: ApiClient, task: StoredTask, written: str, is_there: bool) -> None:
    data = asked(api, task, with_ex_data=written)

    failed = by_name(data)["deploy"]["id"]
    assert data.get("ex_data") == ({failed: "ValueError: no disk"} if is_there else None)


def test_the_reason_is_that_of_the_last_attempt(api: ApiClient, task: StoredTask) -> None:
    use(task, "retry", "deploy")
    task.run("deploy", verdict="FAILED", error_type="OSError", error_message="no network")

    assert list(asked(api, task, with_ex_data=1)["ex_data"].values()) == ["OSError: no network"]


def test_retry_and_skip_are_counted_and_change_the_version(api: ApiClient, task: StoredTask) -> None:
    shown = [by_name(asked(api, task))["deploy"]]

    use(task, "retry", "deploy")
    shown.append(by_name(asked(api, task))["deploy"])
    task.run("deploy", verdict="FAILED")
    shown.append(by_name(asked(api, task))["deploy"])
    use(task, "skip", "deploy")
    shown.append(by_name(asked(api, task))["deploy"])

    assert [one["state"] for one in shown] == ["FAILED", "CREATED", "FAILED", "FINISHED"]
    assert [one["retry"] for one in shown] == [0, 1, 1, 2]
    assert [one["skip"] for one in shown] == [False, False, False, True]
    versions = [one["version"] for one in shown]
    assert versions[1] == versions[2]
    assert len(set(versions)) == 3


def test_a_handed_back_subtask_keeps_its_version(api: ApiClient, task: StoredTask) -> None:
    use(task, "skip", "deploy")
    before = by_name(asked(api, task))["report"]
    [claimed] = task.begin("report")
    task.hand_back("report", claim=claimed.claim)

    assert by_name(asked(api, task))["report"] == before


@pytest.mark.parametrize("path", [PATH, PATH.rstrip("/")])
def test_each_way_of_sending_the_parameters_gives_the_same_answer(
    caller: ApiClient, task: StoredTask, credential: Parameters, path: str
) -> None:
    numbers: Parameters = {**credential, "bk_biz_id": 2, "task_id": task.id}
    form = urlencode(numbers)
    form_type = {"content-type": "application/x-www-form-urlencoded"}

    answers = [
        caller.get(path, params=numbers),
        caller.post(path, json=numbers),
        caller.post(path, content=json.dumps(numbers)),
        caller.post(path, content=json.dumps(numbers), headers=form_type),
        caller.post(path, content=form, headers=form_type),
        caller.post(path, params=numbers),
        caller.post(path, params=credential, json={"bk_biz_id": "2", "task_id": str(task.id)}),
        caller.request("GET", path, json=numbers),
        caller.get(path, params={**numbers, "scope": "cmdb_biz", "__raw": True, "bk_username": "admin", "page": ""}),
    ]

    first, *others = [answered(one) for one in answers]
    assert first["name"] == "job"
    assert all(one == first for one in others)


def test_each_way_of_bearing_the_credential_is_taken(caller: ApiClient, task: StoredTask, secret: str) -> None:
    parameters: Mapping[str, str | int] = {"bk_biz_id": "2", "task_id": task.id}
    gateway = json.dumps({"bk_app_code": "esb_test", "bk_app_secret": secret, "bk_username": "admin"})
    basic = httpx.BasicAuth("esb_test", secret)._auth_header

    for headers in (
        {"X-Bkapi-Authorization": gateway},
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": basic},
    ):
        assert answered(caller.get(PATH, params=parameters, headers=headers))["name"] == "job"
        assert answered(caller.post(PATH, json=parameters, headers=headers))["name"] == "job"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"bk_app_code": "esb_test"},
        {"bk_app_secret": "the secret"},
        {"bk_app_code": "other"},
        {"bk_app_code": "esb_test", "bk_app_secret": "guessed"},
        {"bk_app_code": "nobody", "bk_app_secret": "guessed"},
        {"bk_app_code": "", "bk_app_secret": ""},
        {"bk_token": "xxx", "bk_username": "admin"},
    ],
)
def test_who_shows_no_whole_credential_learns_nothing(
    caller: ApiClient, task: StoredTask, secret: str, given: Mapping[str, str]
) -> None:
    if given == {"bk_app_code": "other"}:
        given = {**given, "bk_app_secret": secret}  # another's
    parameters = {**given, "bk_biz_id": "2", "task_id": str(task.id)}

    for response in (
        caller.get(PATH, params=parameters),
        caller.post(PATH, json=parameters),
        caller.get(PATH, params=given),
    ):
        message = refused(response, 3540100)
        assert "guessed" not in message
        assert secret not in response.text


def test_a_revoked_secret_is_worth_nothing(
    api: ApiClient, caller: ApiClient, task: StoredTask, credential: Parameters
) -> None:
    parameters = {**credential, "bk_biz_id": "2", "task_id": task.id}
    answered(caller.get(PATH, params=parameters))

    assert api.request("DELETE", "/principals/esb_test").is_success

    refused(caller.get(PATH, params=parameters), 3540100)


def test_a_wrong_business_is_not_found_and_a_task_without_one_is_found_for_each(
    api: ApiClient, engine: Engine, task: StoredTask
) -> None:
    anyones = make_task(engine, {"a": ()}, name="anyone's")
    node = by_name(asked(api, task))["deploy"]["id"]

    for wrong in ("3", "02", "2 ", "二"):
        for task_id in (task.id, task.column("task_id"), node):
            message = refused(api.get(PATH, params={"bk_biz_id": wrong, "task_id": task_id}), 3540400)
            assert str(task_id) in message
    for business in ("2", "3", "x"):
        assert asked(api, anyones, bk_biz_id=business)["name"] == "anyone's"


def test_another_accounts_task_is_not_found_and_ones_own_is_whoever_submitted_it(
    api: ApiClient, engine: Engine, task: StoredTask
) -> None:
    stranger = api.acting(Role.ADMIN, "other")
    theirs = make_task(engine, {"a": ()}, account="other", biz_id="2", name="theirs")

    parameters = {"bk_biz_id": "2", "task_id": task.id}
    missing = {"bk_biz_id": "2", "task_id": 999_999}
    message = refused(stranger.get(PATH, params=parameters), 3540400)
    assert message.replace(str(task.id), "?") == refused(stranger.get(PATH, params=missing), 3540400).replace(
        "999999", "?"
    )
    refused(stranger.get(PATH, params={**parameters, "task_id": task.column("task_id")}), 3540400)
    assert asked(stranger, theirs)["name"] == "theirs"


@pytest.mark.parametrize("last", ["00000004", "ffffffff", "7fffffff", "80000000"])
def test_a_node_that_the_task_does_not_have_is_not_found(api: ApiClient, task: StoredTask, last: str) -> None:
    hex_id = task.column("task_id")[:24] + last

    refused(api.get(PATH, params={"bk_biz_id": "2", "task_id": hex_id}), 3540400)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"bk_biz_id": None}, "bk_biz_id is required"),
        ({"bk_biz_id": ""}, "bk_biz_id is required"),
        ({"bk_biz_id": "x" * 65}, "bk_biz_id must be at most 64"),
        ({"bk_biz_id": "a\x00b"}, "bk_biz_id must not hold the character U+0000"),
        ({"bk_biz_id": "\ud800"}, "bk_biz_id"),
        ({"bk_biz_id": [2]}, "bk_biz_id must be a text or a number"),
        ({"task_id": None}, "task_id is required"),
        ({"task_id": "ten"}, "task_id must be the number of a task"),
        ({"task_id": "-1"}, "task_id must be the number"),
        ({"task_id": 1.5}, "task_id must be the number"),
        ({"task_id": "9" * 19}, "task_id must be the number"),
        ({"task_id": "9" * 31}, "task_id must be the number"),
        ({"task_id": "g" * 32}, "task_id must be the number"),
        ({"task_id": "\uff11\uff10"}, "task_id must be the number"),
        ({"task_id": {"id": 1}}, "task_id must be a text or a number"),
        ({"with_ex_data": "perhaps"}, "with_ex_data must be true or false"),
    ],
)
def test_a_wrong_parameter_is_named(api: ApiClient, changed: Parameters, named: str) -> None:
    body = json.dumps({"bk_biz_id": "2", "task_id": "1", **changed})

    assert named in refused(api.post(PATH, content=body), 3540000)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", ""),
        (b"[]", ""),
        (b"null", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"task_id": 1, "task_id": 2}', "application/json"),
        (b'{"task_id": NaN}', "application/json"),
        (b"[" * 50_000, "application/json"),
        (b'{"task_id": ' + b"9" * 5000 + b"}", "application/json"),
        (b'{"task_id": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "application/json"),
        (b"a" * 70_000, ""),
        (b"task_id=%ff", "application/x-www-form-urlencoded"),
        (b"&".join(b"a=1" for _ in range(300)), "application/x-www-form-urlencoded"),
        (
            b'--x\r\nContent-Disposition: form-data; name="task_id"\r\n\r\n1\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_the_envelope(api: ApiClient, body: bytes, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}

    refused(api.post(PATH, content=body, headers=headers), 3540000)


def test_a_parameter_given_twice_with_different_values_is_refused_without_showing_them(
    caller: ApiClient, task: StoredTask, credential: Parameters
) -> None:
    body = {**credential, "bk_biz_id": "2", "task_id": task.id}

    responses = [
        caller.post(PATH, params={"task_id": "77"}, json=body),
        caller.get(PATH, params=[*body.items(), ("task_id", "77")]),
        caller.post(PATH, params={"bk_app_secret": "other"}, json=body),
    ]

    for response in responses:
        assert "is given twice" in refused(response, 3540000)
        assert str(credential["bk_app_secret"]) not in response.text
    answered(caller.post(PATH, params={"task_id": task.id, "bk_biz_id": "2"}, json=body))


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "HEAD"])
def test_another_method_is_not_possible(api: ApiClient, method: str) -> None:
    response = api.request(method, PATH)

    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST")
    if method != "HEAD":
        refused(response, 3545000, status=405)


@pytest.mark.parametrize("path", ["//api/c/compapi/v2/sops/create_task/", "//api/c/compapi", "//api/c/compapi/v2/cc/x"])
def test_what_is_not_served_of_the_gateway_says_so_in_its_envelope(api: ApiClient, path: str) -> None:
    assert "there is nothing at /api/c/compapi" in refused(api.post(path), 3540400)


def test_an_answer_bears_the_callers_request_id(api: ApiClient, task: StoredTask) -> None:
    parameters = {"bk_biz_id": "2", "task_id": task.id}
    answers = [
        api.get(PATH, params=parameters, headers={"x-trace-id": "find-me"}).json(),
        api.get(PATH, headers={"x-trace-id": "find-me"}).json(),
    ]

    assert [(one["request_id"], one["trace_id"]) for one in answers] == [("find-me", "find-me")] * 2


def test_what_nobody_expected_is_a_500_in_the_envelope_and_its_log_line_has_no_parameter(
    api: ApiClient, engine: Engine, task: StoredTask
) -> None:
    execute(engine, "ALTER TABLE subtask_specs RENAME TO hidden")
    try:
        with capture_logs() as lines:
            response = api.get(PATH, params={"bk_biz_id": "2", "task_id": task.id, "bk_app_secret": "do-not-log"})
    finally:
        execute(engine, "ALTER TABLE hidden RENAME TO subtask_specs")

    refused(response, 3599999, status=500)
    assert "hidden" not in response.text
    assert "SELECT" not in response.text
    assert [one["action"] for one in lines] == ["request"]
    assert "do-not-log" not in repr(lines)


def test_a_database_that_is_away_is_a_503_in_the_envelope(api: ApiClient) -> None:
    nowhere = make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", name="away")
    services = api.app.state.services
    parameters = {"bk_biz_id": "2", "task_id": 1}
    refused(api.get(PATH, params=parameters), 3540400)  # so that who asks is known
    api.app.state.services = replace(services, engine=nowhere)
    try:
        response = api.get(PATH, params=parameters)
    finally:
        api.app.state.services = services
        nowhere.dispose()

    refused(response, 3555000, status=503)
    assert response.headers["retry-after"] == "1"


def test_polling_is_one_narrow_statement(api: ApiClient, engine: Engine, task: StoredTask) -> None:
    asked(api, task)  # so that who asks is known

    with counted(engine) as statements:
        asked(api, task, with_ex_data=1)

    [statement] = statements
    assert statement.lstrip().startswith("SELECT")
    assert not any(word in statement for word in ("FOR UPDATE", "subtask_edges", "argument", "subtask_results"))


def test_answers_and_refusals_are_what_the_description_says(api: ApiClient, engine: Engine, task: StoredTask) -> None:
    document = api.get("//openapi.json").json()
    calls = document["paths"]["/api/c/compapi/v2/sops/get_task_status/"]
    assert set(calls) == {"get", "post"}
    parameters = {"bk_biz_id": "2", "task_id": task.id}
    answers = [
        api.get(PATH, params=parameters),
        api.get(PATH, params={**parameters, "with_ex_data": 1}),
        api.post(PATH, content=b"x"),
        api.bearing(None).get(PATH),
        api.request("DELETE", PATH),
    ]

    for response in answers:
        described = calls["get"]["responses"].get(str(response.status_code), calls["get"]["responses"]["default"])
        schema = described["content"]["application/json"]["schema"]
        validator_for({**schema, "components": document["components"]}).validate(response.json())
