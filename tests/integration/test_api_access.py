"""Who may call what, and whose rows they see: every call, by every role, from both sides of an account."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import Engine

from taskserver.control import SUBTASK_VERBS, TASK_VERBS
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from tests.api_client import PREFIX, ApiClient, running_api
from tests.factories import StoredTask, make_task, one

OPEN = {"/healthz", "/readyz"}
NEEDS = {
    ("POST", "/instances"): Role.TASK_SUBMITTER,
    ("POST", "/instances/batch"): Role.TASK_SUBMITTER,
    ("POST", "/instances/retry"): Role.TASK_MANAGER,
    **{("POST", f"/instances/{{id}}/{verb}"): Role.TASK_MANAGER for verb in TASK_VERBS},
    **{("POST", f"/instances/{{id}}/subtasks/{{sid}}/{verb}"): Role.TASK_MANAGER for verb in SUBTASK_VERBS},
    ("PUT", "/definitions/{name}"): Role.ADMIN,
    ("DELETE", "/definitions/{name}"): Role.ADMIN,
    ("GET", "/principals"): Role.ADMIN,
    ("POST", "/principals"): Role.ADMIN,
    ("DELETE", "/principals/{name}"): Role.ADMIN,
    ("POST", "/principals/{name}/rotate"): Role.ADMIN,
}
OF_A_TASK = ("", "/status", "/plan", "/operations", "/subtasks?key=a", "/subtasks/{sid}", "/subtasks/{sid}/log")


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


def calls(api: ApiClient) -> list[tuple[str, str]]:
    """Return every method and path of the main API, but for the open ones; the other interfaces are tested by themselves."""
    others = tuple(prefix for one in api.app.state.dialects.served for prefix in one.prefixes)
    served = [call for call in api.app.state.calls if isinstance(call, APIRoute)]
    routes = [call for call in served if call.path not in OPEN and not call.path.startswith(others)]
    return [(method, route.path) for route in routes for method in route.methods]


def test_every_call_but_the_open_ones_is_refused_without_a_credential(api: ApiClient) -> None:
    for method, path in calls(api):
        response = api.bearing(None).request(method, "/" + path)

        assert response.status_code == 401, path
        assert response.json()["error"]["code"] == 30001
        assert "Bearer" in response.headers["www-authenticate"]


@pytest.mark.parametrize("role", list(Role))
def test_every_call_is_open_to_the_roles_that_it_needs_and_closed_to_the_others(api: ApiClient, role: Role) -> None:
    caller = api.acting(role)

    for method, path in calls(api):
        needed = NEEDS.get((method, path.removeprefix(PREFIX)), Role.TASK_VIEWER)
        status = caller.request(method, "/" + path, content=b"no json").status_code

        if role.covers(needed):
            assert status not in {401, 403}, (method, path)
        else:
            assert status == 403, (method, path)


def test_who_may_not_call_learns_nothing_about_what_is_there(api: ApiClient, engine: Engine) -> None:
    viewer = api.acting(Role.TASK_VIEWER)
    before = one(engine, "SELECT count(*) AS n FROM principals")["n"]

    refusals = [
        viewer.post("/principals", content=b"{").json()["error"],
        viewer.post("/principals", json={"name": "x", "role": "ADMIN"}).json()["error"],
        viewer.request("DELETE", "/principals/admin").json()["error"],
        viewer.request("DELETE", "/principals/nobody").json()["error"],
    ]

    assert all(one == refusals[0] for one in refusals)
    assert one(engine, "SELECT count(*) AS n FROM principals")["n"] == before


def same_error(first: Any, second: Any) -> bool:
    volatile = {"timestamp", "duration", "traceId"}
    return [(name, value) for name, value in first.items() if name not in volatile] == [
        (name, value) for name, value in second.items() if name not in volatile
    ]


@pytest.mark.parametrize("role", list(Role))
def test_another_accounts_task_cannot_be_told_from_one_that_is_not_there(
    api: ApiClient, engine: Engine, role: Role
) -> None:
    theirs = make_task(engine, {"a": ()}, account="theirs")
    caller = api.acting(role, "mine")

    for path in OF_A_TASK:
        address = f"/instances/{theirs.id}{path.format(sid=theirs.ids['a'])}"
        there = caller.get(address)
        with_hidden = there.json()
        hide(engine, theirs)
        gone = caller.get(address).json()
        show(engine, theirs)

        assert there.status_code == 404
        assert same_error(with_hidden, gone), path


def hide(engine: Engine, task: StoredTask) -> None:
    rename(engine, task, -task.id)


def show(engine: Engine, task: StoredTask) -> None:
    rename(engine, task, task.id)


def rename(engine: Engine, task: StoredTask, new: int) -> None:
    """Take the task out of the id's place, which is as good as deleting it for whoever asks for the id."""
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table, column in (
            ("tasks", "id"),
            ("task_progress", "id"),
            ("subtasks", "task_id"),
            ("subtask_specs", "task_id"),
        ):
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = {new} WHERE {column} = {-new}")


def test_lists_hold_only_the_callers_account(api: ApiClient, engine: Engine) -> None:
    mine, theirs = make_task(engine, {"a": ()}, account="mine"), make_task(engine, {"a": ()}, account="theirs")
    caller = api.acting(Role.ADMIN, "mine")

    page = caller.data("/instances")
    statuses = caller.data(f"/instances/status?ids={mine.id},{theirs.id}")

    assert [row["id"] for row in page["contents"]] == [mine.id]
    assert page["page"]["totalElements"] == 1
    assert [row["id"] for row in statuses["contents"]] == [mine.id]
    assert statuses["missing"] == [theirs.id]


def basic(name: str, token: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()}


def test_basic_takes_the_name_and_its_token(api: ApiClient) -> None:
    made = api.post("/principals", json={"name": "bob", "role": "TASK_VIEWER"}).json()["data"]
    nobody = api.bearing(None)

    assert nobody.get("/instances", headers=basic("bob", made["token"])).status_code == 200
    assert nobody.get("/instances", headers=basic("admin", made["token"])).status_code == 401
    assert nobody.get("/instances", headers=basic("bob", "")).status_code == 401


@pytest.mark.parametrize(
    "credential", ["", "Bearer", "Bearer ", "Bearer x", "Basic !", "Basic Og", "Basic", "Digest x", "Bearer ts1.YQ.1.x"]
)
def test_what_is_no_credential_is_401(api: ApiClient, credential: str) -> None:
    response = api.bearing(None).get("/instances", headers={"authorization": credential})

    assert (response.status_code, response.json()["error"]["code"]) == (401, 30001)


def test_a_token_ends_when_it_is_rotated_and_when_its_principal_goes(api: ApiClient) -> None:
    made = api.post("/principals", json={"name": "bob", "role": "TASK_VIEWER", "account": "7"})
    first = api.bearing(made.json()["data"]["token"])
    assert (made.status_code, first.get("/instances").status_code) == (201, 200)

    rotated = api.post("/principals/bob/rotate").json()["data"]
    second = api.bearing(rotated["token"])

    assert (first.get("/instances").status_code, second.get("/instances").status_code) == (401, 200)
    assert rotated["serial"] == 2

    removed = api.request("DELETE", "/principals/bob")

    assert (removed.status_code, "data" in removed.json()) == (200, False)
    assert second.get("/instances").status_code == 401
    assert api.request("DELETE", "/principals/bob").status_code == 404


def test_a_name_that_comes_back_does_not_bring_its_old_tokens(api: ApiClient) -> None:
    wanted = {"name": "bob", "role": "TASK_VIEWER"}
    old = api.post("/principals", json=wanted).json()["data"]["token"]
    api.request("DELETE", "/principals/bob")

    again = api.post("/principals", json=wanted).json()["data"]

    assert again["token"] != old
    assert api.bearing(old).get("/instances").status_code == 401


def test_tokens_are_not_listed_and_names_are_taken_once(api: ApiClient) -> None:
    wanted = {"name": "bob", "role": "TASK_VIEWER"}
    assert api.post("/principals", json=wanted).status_code == 201

    taken = api.post("/principals", json=wanted)
    listed = api.data("/principals")["contents"]

    assert (taken.status_code, taken.json()["error"]["code"]) == (409, 20005)
    assert [(row["name"], row["role"]) for row in listed] == [("admin", "ADMIN"), ("bob", "TASK_VIEWER")]
    assert "token" not in listed[0]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "ADMIN"}, "/name"),
        ({"name": "", "role": "ADMIN"}, "/name"),
        ({"name": "a b", "role": "ADMIN"}, "/name"),
        ({"name": "bob", "role": "KING"}, "/role"),
        ({"name": "bob", "role": "ADMIN", "serial": 7}, "/serial"),
        ({"name": "bob", "role": "ADMIN", "account": ""}, "/account"),
    ],
)
def test_a_wrong_principal_is_refused_field_by_field(api: ApiClient, body: dict[str, Any], field: str) -> None:
    response = api.post("/principals", json=body)

    assert (response.status_code, response.json()["error"]["code"]) == (400, 10001)
    assert [one["field"] for one in response.json()["error"]["subErrors"]] == [field]


@pytest.mark.parametrize("name", ["flower", "taskserver", "Flower"])
def test_the_names_that_the_audit_uses_for_the_product_are_no_principals(api: ApiClient, name: str) -> None:
    response = api.post("/principals", json={"name": name, "role": "TASK_VIEWER"})

    assert (response.status_code, response.json()["error"]["code"]) == (400, 10001)
    assert "choose another name" in response.json()["error"]["message"]
    assert name not in {one["name"] for one in api.data("/principals")["contents"]}


def test_an_administrator_of_another_account_reaches_only_its_principals(api: ApiClient) -> None:
    theirs = api.acting(Role.ADMIN, "theirs")

    assert [row["account"] for row in theirs.data("/principals")["contents"]] == ["theirs"]
    assert theirs.post("/principals", json={"name": "up", "role": "ADMIN", "account": "0"}).status_code == 403
    assert theirs.request("DELETE", "/principals/admin").status_code == 404
    assert theirs.post("/principals/admin/rotate").status_code == 404
    assert theirs.post("/principals", json={"name": "x", "role": "ADMIN", "account": "theirs"}).status_code == 201


def test_an_administrator_cannot_remove_itself(api: ApiClient) -> None:
    response = api.request("DELETE", "/principals/admin")

    assert response.status_code == 400
    assert api.get("/principals").status_code == 200


def test_the_given_administrators_token_is_taken_literally(engine: Engine, stack: EmbeddedStack) -> None:
    with running_api(engine, stack.redis_url, admin_token="open: sesame!") as api:
        assert api.get("/principals").status_code == 200
        assert api.bearing("open: sesame!").get("/principals").status_code == 200
        assert api.bearing(None).get("/principals", headers=basic("admin", "open: sesame!")).status_code == 200
        assert api.post("/principals/admin/rotate").status_code == 400
