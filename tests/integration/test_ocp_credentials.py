"""OCP's signature and BlueKing's application header as credentials, through the whole application."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.kinds import KindInfo
from schema.transitions.registrations import register_kinds
from taskserver.api import event_stream, ocp_signature
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from tests.api_client import PREFIX, ApiClient, running_api
from tests.factories import make_task, one
from tests.live import live_api
from tests.ocp_clients import SigningClient
from tests.operators import dump

HOST = "taskserver"
SUBMISSION = json.dumps({"name": "signed", "subtasks": [{"key": "a", "kind": "test.kind"}]}).encode()
MOST_BYTES = 20_000


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
    with running_api(engine, stack.redis_url, max_submission_bytes=MOST_BYTES) as api:
        yield api


class Signer:
    """Calls the application with a principal's signature."""

    def __init__(self, api: ApiClient, name: str, token: str) -> None:
        self._api = api.bearing(None)
        self._client = SigningClient(HOST, name, token)

    def call(
        self, method: str, path: str, *, sent_as: str | None = None, body: bytes = b"", **options: Any
    ) -> httpx.Response:
        headers = self._client.headers(method, PREFIX + path, body=options.pop("signed_body", body))
        return self._api.request(sent_as or method, path, headers=headers, content=body or None)


def created(api: ApiClient, name: str, role: Role = Role.TASK_MANAGER) -> str:
    return str(api.post("/principals", json={"name": name, "role": role}).json()["data"]["token"])


def signer(api: ApiClient, name: str = "bob", role: Role = Role.TASK_MANAGER) -> Signer:
    return Signer(api, name, created(api, name, role))


def refusal(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (401, 30001), response.text
    assert "OCP-ACCESS-KEY-HMACSHA1" in response.headers["www-authenticate"]
    return str(error["message"])


def test_a_signed_call_is_made_as_the_principal(api: ApiClient) -> None:
    bob = signer(api)

    listed = bob.call("GET", "/instances" + SigningClient.query({"status": ["RUNNING", "FAILED"], "name": "a b~*"}))
    made = bob.call("POST", "/instances", body=SUBMISSION)

    assert (listed.status_code, made.status_code) == (200, 201)
    assert made.json()["data"]["creator"]["name"] == "bob"


def test_a_signed_verb_needs_no_body_and_can_have_one(api: ApiClient, engine: Engine) -> None:
    bob, task = signer(api), make_task(engine, {"a": ()})

    paused = bob.call("POST", f"/instances/{task.id}/pause")
    resumed = bob.call("POST", f"/instances/{task.id}/resume", body=b'{"reason": "go on"}')

    assert (paused.status_code, resumed.status_code) == (200, 200)
    assert api.data(f"/instances/{task.id}/operations")["contents"][1]["reason"] == "go on"


def test_a_role_bounds_a_signature_as_it_does_a_token(api: ApiClient) -> None:
    viewer = signer(api, "eve", Role.TASK_VIEWER)

    assert viewer.call("GET", "/instances").status_code == 200
    assert viewer.call("POST", "/instances", body=SUBMISSION).status_code == 403


@pytest.mark.parametrize("path", ["/instances", "/instances/1", "/definitions/x"])
def test_another_method_than_the_signed_one_is_401_and_does_nothing(api: ApiClient, engine: Engine, path: str) -> None:
    bob, before = signer(api), dump(engine)

    said = refusal(bob.call("POST", path, sent_as="GET"))

    assert "method GET" in said
    assert dump(engine) == before


def test_a_get_of_a_verb_is_405_whatever_was_signed(api: ApiClient, engine: Engine) -> None:
    bob, task = signer(api), make_task(engine, {"a": ()})
    task.run("a", verdict="FAILED")
    before = dump(engine)

    response = bob.call("POST", f"/instances/{task.id}/retry", sent_as="GET")

    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert (response.json()["successful"], response.json()["error"]["type"]) == (False, "MethodNotAllowed")
    assert dump(engine) == before


def test_another_body_than_the_signed_one_stores_nothing(api: ApiClient, engine: Engine) -> None:
    bob = signer(api)

    refusal(bob.call("POST", "/instances", body=SUBMISSION, signed_body=b""))
    refusal(bob.call("POST", "/instances", body=SUBMISSION, signed_body=SUBMISSION + b" "))

    assert one(engine, "SELECT count(*) AS n FROM tasks")["n"] == 0


def test_a_signed_body_has_the_same_limits(api: ApiClient, engine: Engine) -> None:
    bob, task = signer(api), make_task(engine, {"a": ()})

    longest = bob.call("POST", "/instances", body=b" " * MOST_BYTES)
    longer = bob.call("POST", "/instances", body=b" " * (MOST_BYTES + 1))
    unknown = Signer(api, "nobody", "x").call("POST", f"/instances/{task.id}/pause", body=b" " * (MOST_BYTES + 1))

    assert (longest.status_code, longest.json()["error"]["code"]) == (400, 10001)
    assert [(one.status_code, one.json()["error"]["code"]) for one in (longer, unknown)] == [(413, 10002)] * 2


def test_a_wrong_secret_and_a_name_that_nobody_has_look_the_same(api: ApiClient) -> None:
    created(api, "bob")

    wrong = refusal(Signer(api, "bob", "wrong").call("GET", "/instances"))
    assert "the x-ocp- headers (an empty line where there are none)" in wrong
    unknown = refusal(Signer(api, "nobody", "wrong").call("GET", "/instances"))

    assert wrong == unknown
    assert "token" in wrong
    assert "bob" not in wrong


def test_a_signature_ends_with_the_token_that_made_it(api: ApiClient) -> None:
    first = signer(api)
    assert first.call("GET", "/instances").status_code == 200

    second = Signer(api, "bob", api.post("/principals/bob/rotate").json()["data"]["token"])

    refusal(first.call("GET", "/instances"))
    assert second.call("GET", "/instances").status_code == 200

    api.request("DELETE", "/principals/bob")

    refusal(second.call("GET", "/instances"))


def test_a_principal_can_sign_as_soon_as_it_is_created(api: ApiClient) -> None:
    refusal(Signer(api, "bob", "x").call("GET", "/instances"))

    assert signer(api).call("GET", "/instances").status_code == 200


def test_the_given_administrators_token_can_be_the_secret_key(engine: Engine, stack: EmbeddedStack) -> None:
    with running_api(engine, stack.redis_url, admin_token="open: sesame!") as api:
        assert Signer(api, "admin", "open: sesame!").call("GET", "/principals").status_code == 200
        refusal(Signer(api, "admin", "open: sesame").call("GET", "/principals"))


def test_a_stream_goes_on_after_its_signature_is_too_old_and_ends_with_the_token(
    engine: Engine, stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_KEEP_ALIVE_SECONDS", 0.05)
    task = make_task(engine, {"a": ()})
    path = f"{PREFIX}/instances/{task.id}/events"
    with live_api(engine, stack.redis_url) as live:
        made = live.http.post(f"{PREFIX}/principals", json={"name": "bob", "role": "TASK_VIEWER"}).json()["data"]
        headers = SigningClient(live.url.removeprefix("http://"), "bob", made["token"]).headers("GET", path)
        with httpx.stream("GET", live.url + path, headers={**headers, "Accept": "text/event-stream"}) as response:
            lines = response.iter_lines()
            alive = (line for line in lines if line == ": keep-alive")
            next(alive)
            monkeypatch.setattr(ocp_signature, "WINDOW", timedelta(days=-1))

            for _ in range(3):
                next(alive)
            live.http.delete(f"{PREFIX}/principals/bob")

            assert list(lines)[-1:] in ([": keep-alive"], [""], [])
        assert httpx.get(live.url + path, headers=headers).status_code == 401


def application(**members: Any) -> dict[str, str]:
    return {"X-Bkapi-Authorization": json.dumps(members)}


def test_an_application_is_a_principal_with_its_token_for_a_secret(api: ApiClient) -> None:
    token, nobody = created(api, "app"), api.bearing(None)

    taken = nobody.get("/instances", headers=application(bk_app_code="app", bk_app_secret=token, bk_username="me"))
    made = nobody.post("/instances", headers=application(bk_app_code="app", bk_app_secret=token), content=SUBMISSION)

    assert (taken.status_code, made.status_code) == (200, 201)
    assert made.json()["data"]["creator"]["name"] == "app"
    refusal(nobody.get("/instances", headers=application(bk_app_code="admin", bk_app_secret=token)))
    refusal(nobody.get("/instances", headers=application(bk_app_code="app", bk_app_secret=token + "x")))


@pytest.mark.parametrize(
    "written",
    [
        "",
        "app",
        "[]",
        "null",
        "{}",
        '{"bk_app_code": "app"}',
        '{"bk_app_code": "app", "bk_app_secret": 7}',
        '{"bk_app_code": "app", "bk_app_code": "admin", "bk_app_secret": "hidden"}',
        "[" * 5_000,
        '{"bk_app_code": "\xff", "bk_app_secret": "hidden"}',
    ],
)
def test_a_header_that_names_no_application_is_refused_with_its_form(api: ApiClient, written: str) -> None:
    header = {"X-Bkapi-Authorization": written.encode("latin-1")}

    said = refusal(api.bearing(None).get("/instances", headers=header))

    assert 'X-Bkapi-Authorization is not JSON of the form {"bk_app_code": NAME' in said
    assert "hidden" not in said


@pytest.mark.parametrize("credential", ["Digest x", "ts1.secret", "OCP-ACCESS-KEY x:y"])
def test_an_unknown_scheme_is_told_from_no_credential_and_not_echoed(api: ApiClient, credential: str) -> None:
    nobody = api.bearing(None)

    unknown = refusal(nobody.get("/instances", headers={"authorization": credential}))
    none = refusal(nobody.get("/instances"))

    assert "no known scheme" in unknown
    assert credential.split(maxsplit=1)[0] not in unknown.replace("OCP-ACCESS-KEY-HMACSHA1", "")
    assert "no credential" in none


def test_the_description_names_every_way_to_say_who_asks(api: ApiClient) -> None:
    document = api.get("//openapi.json").json()

    schemes = document["components"]["securitySchemes"]
    assert {name: (one["type"], one.get("name", one.get("scheme"))) for name, one in schemes.items()} == {
        "bearer": ("http", "bearer"),
        "basic": ("http", "basic"),
        "signature": ("apiKey", "Authorization"),
        "application": ("apiKey", "X-Bkapi-Authorization"),
    }
    assert document["paths"][f"{PREFIX}/instances"]["get"]["security"] == [{name: []} for name in schemes]
