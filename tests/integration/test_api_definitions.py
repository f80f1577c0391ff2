"""Definitions over HTTP: put, shown, listed, deleted; by account; and what of their tasks is hidden."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.kinds import KindInfo
from schema.redaction import MASK
from schema.transitions.registrations import register_kinds
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from taskserver.queries import definitions
from tests.api_client import ApiClient, running_api
from tests.factories import make_task, one

ECHO = KindInfo("host.echo", {"type": "object", "properties": {"n": {"type": "integer"}}})
SUBTASK = {"key": "a", "kind": "host.echo"}
DOCUMENT = {
    "description": "prepares a host",
    "arguments": {"port": 22, "none": None},
    "subtasks": [SUBTASK, {"key": "b", "kind": "host.echo", "upstreams": ["a"], "arguments": {"n": {"$arg": "/port"}}}],
    "queue": "hosts",
    "callback": {"url": "http://hooks.example.org", "path": "/done", "retry": 2, "timeoutSeconds": 5},
    "concurrency": 3,
    "onDuplicate": "reject",
    "redact": ["password"],
}


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with transaction(engine) as connection:
        register_kinds(connection, [ECHO], code_version="v")
    with running_api(engine, stack.redis_url, callback_hosts=("hooks.example.org",)) as api:
        yield api


def put(api: ApiClient, name: str = "prepare", **members: Any) -> httpx.Response:
    return api.request("PUT", f"/definitions/{name}", json={"subtasks": [SUBTASK], **members})


def refusal(response: httpx.Response, status: int = 400) -> Any:
    assert response.status_code == status, response.text
    return response.json()["error"]


class TestPut:
    def test_the_answer_is_the_document_with_its_version(self, api: ApiClient) -> None:
        response = api.request("PUT", "/definitions/prepare", json=DOCUMENT)

        data = response.json()["data"]
        head = {name: data.pop(name) for name in ("id", "name", "version", "creator", "createTime", "subtaskCount")}
        assert response.status_code == 201
        assert data == DOCUMENT
        assert (head["name"], head["version"], head["subtaskCount"]) == ("prepare", 1, 2)
        assert head["creator"] == {"name": "admin"}
        assert api.data("/definitions/prepare") == {**head, **data}

    def test_an_unchanged_put_is_answered_200_with_the_version_there_is(self, api: ApiClient) -> None:
        first, again, changed = put(api), put(api), put(api, concurrency=1)

        assert [one.status_code for one in (first, again, changed)] == [201, 200, 201]
        assert again.json()["data"] == first.json()["data"]
        assert changed.json()["data"]["version"] == 2

    def test_an_unknown_kind_is_named_with_the_nearest(self, api: ApiClient) -> None:
        error = refusal(put(api, subtasks=[{"key": "a", "kind": "host.ecko"}]))

        assert error["code"] == 20001
        assert error["target"] == "/subtasks/0/kind"
        assert "'host.ecko'" in error["message"]
        assert "did you mean 'host.echo'" in error["message"]

    def test_a_callback_outside_the_allow_list_is_named(self, api: ApiClient) -> None:
        error = refusal(put(api, callback={"url": "https://elsewhere.example.org", "path": "/x"}))

        assert (error["code"], error["target"]) == (10001, "/callback/url")
        assert "elsewhere.example.org" in error["message"]

    def test_a_constant_argument_that_the_kind_does_not_take_is_named(self, api: ApiClient) -> None:
        error = refusal(put(api, subtasks=[{**SUBTASK, "arguments": {"n": "x"}}]))

        assert (error["code"], error["target"]) == (10001, "/subtasks/0/arguments/n")

    def test_a_literal_under_a_hidden_name_is_refused_and_not_echoed(self, api: ApiClient) -> None:
        response = put(api, subtasks=[{**SUBTASK, "arguments": {"password": "hunter2"}}], redact=["password"])

        error = refusal(response)
        assert (error["code"], error["target"]) == (10001, "/subtasks/0/arguments/password")
        assert "hunter2" not in response.text

    def test_a_wrong_graph_a_wrong_field_and_a_wrong_name_are_told_and_nothing_is_stored(
        self, api: ApiClient, engine: Engine
    ) -> None:
        graph = refusal(put(api, subtasks=[{**SUBTASK, "upstreams": ["b"]}]))
        field = refusal(put(api, steps=[]))
        name = refusal(put(api, "not%20a%20key"))
        inline = refusal(put(api, "inline"))

        assert (graph["code"], graph["target"]) == (20001, "/subtasks/0")
        assert [(one["field"]) for one in field["subErrors"]] == ["/steps"]
        assert [one["field"] for one in name["subErrors"]] == ["name"]
        assert "choose another name" in inline["message"]
        assert one(engine, "SELECT count(*) AS n FROM task_definitions")["n"] == 0

    def test_a_document_larger_than_a_submission_is_413(self, engine: Engine, stack: EmbeddedStack) -> None:
        with running_api(engine, stack.redis_url, max_submission_bytes=100) as api:
            assert refusal(put(api, description="x" * 100), 413)["code"] == 10002


class TestShow:
    def test_each_version_stays_readable_also_after_a_delete(self, api: ApiClient) -> None:
        put(api)
        put(api, concurrency=2)
        deleted = api.request("DELETE", "/definitions/prepare")

        versions = api.data("/definitions/prepare/versions")["contents"]

        assert deleted.status_code == 200
        assert [one["version"] for one in versions] == [2, 1]
        assert all("deleteTime" in one and "subtasks" not in one for one in versions)
        assert api.data("/definitions/prepare?version=2")["concurrency"] == 2
        assert "concurrency" not in api.data("/definitions/prepare?version=1")
        assert "'prepare' does not exist" in api.error("/definitions/prepare", 404)["message"]
        assert "version 3 of definition 'prepare'" in api.error("/definitions/prepare?version=3", 404)["message"]
        assert refusal(api.request("DELETE", "/definitions/prepare"), 404)["code"] == 20000

    def test_the_list_has_the_newest_version_of_each_that_is_not_deleted(self, api: ApiClient) -> None:
        for name in ("zebra", "apple", "gone"):
            put(api, name)
        put(api, "zebra", concurrency=2)
        api.request("DELETE", "/definitions/gone")

        rows = api.data("/definitions")["contents"]

        assert [(row["name"], row["version"]) for row in rows] == [("apple", 1), ("zebra", 2)]
        assert rows[0] == api.data("/definitions/apple")

    def test_a_list_leaves_out_what_is_too_large_for_one_answer(
        self, api: ApiClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(api, "apple")
        put(api, "zebra", description="striped", arguments={"x": 1})
        monkeypatch.setattr(definitions, "DOCUMENT_BYTES", 100)

        first, second = api.data("/definitions")["contents"]

        assert first["subtasks"] == [SUBTASK]
        assert (second["description"], second["subtaskCount"]) == ("striped", 1)
        assert not {"subtasks", "arguments"} & set(second)

    def test_what_is_too_large_is_told_by_the_size_of_the_answer_not_of_what_is_stored(self, api: ApiClient) -> None:
        for number in range(20):
            subtasks = [{**SUBTASK, "key": f"k{n}", "arguments": {"text": "a" * 250_000}} for n in range(2)]
            put(api, f"large{number}", subtasks=subtasks)
        put(api, "small")

        response = api.get("/definitions")

        rows = {row["name"]: row for row in response.json()["data"]["contents"]}
        whole = [name for name, row in rows.items() if "subtasks" in row]
        assert len(response.content) < definitions.DOCUMENT_BYTES + 100_000
        assert (len(rows), len(whole)) == (21, 9)
        assert "small" in whole

    def test_versions_come_in_pages_that_say_how_many_there_are(self, api: ApiClient) -> None:
        for number in range(5):
            put(api, concurrency=number)

        second = api.data("/definitions/prepare/versions?page=2&size=2")
        beyond = api.data("/definitions/prepare/versions?page=4&size=2")
        whole = api.data("/definitions/prepare/versions")

        assert [one["version"] for one in second["contents"]] == [3, 2]
        assert second["page"] == {"totalElements": 5, "totalPages": 3, "number": 2, "size": 2}
        assert (beyond["contents"], beyond["page"]["totalElements"]) == ([], 5)
        assert [one["version"] for one in whole["contents"]] == [5, 4, 3, 2, 1]

    def test_a_name_that_is_too_long_is_told_in_characters_and_not_echoed_whole(self, api: ApiClient) -> None:
        name = "n" * 201

        for error in (api.error(f"/definitions/{name}", 400), refusal(put(api, name))):
            assert "at most 200 characters" in error["message"]
            assert len(error["message"]) < 200

    @pytest.mark.parametrize("version", ["0", "-1", "x", str(2**31)])
    def test_a_wrong_version_is_refused(self, api: ApiClient, version: str) -> None:
        assert api.error(f"/definitions/prepare?version={version}", 400)["code"] == 10001


class TestAccounts:
    def test_a_definition_is_seen_and_changed_in_its_account_only(self, api: ApiClient) -> None:
        mine, theirs = api.acting(Role.ADMIN, "mine"), api.acting(Role.ADMIN, "theirs")
        put(theirs)
        hidden = mine.get("/definitions/prepare").json()["error"]
        deleted = mine.request("DELETE", "/definitions/prepare").json()["error"]
        absent = (
            mine.get("/definitions/prepare?version=1").status_code,
            mine.get("/definitions/prepare/versions").status_code,
        )

        own = put(mine, concurrency=1).json()["data"]

        assert (
            hidden
            == deleted
            == {
                "code": 20000,
                "type": "NotFound",
                "message": "definition 'prepare' does not exist: list the definitions to see which do",
                "target": "prepare",
            }
        )
        assert absent == (404, 404)
        assert own["version"] == 1
        assert "concurrency" not in theirs.data("/definitions/prepare")
        assert [one["id"] for one in mine.data("/definitions")["contents"]] == [own["id"]]


class TestSubmitting:
    def test_a_task_is_made_of_the_newest_version_and_keeps_it(self, api: ApiClient) -> None:
        put(api)
        version = put(api, subtasks=[{**SUBTASK, "key": "second"}], arguments={"x": 1}).json()["data"]["id"]
        task = submitted(api, arguments={"y": 2}).json()["data"]
        put(api, subtasks=[{**SUBTASK, "key": "third"}])

        later = submitted(api).json()["data"]

        kept = api.data(f"/instances/{task['id']}")
        assert (kept["taskType"], kept["taskDefinitionId"], kept["name"]) == ("prepare", version, "prepare")
        assert kept["arguments"] == {"x": 1, "y": 2}
        assert [one["key"] for one in kept["subtasks"]] == ["second"]
        assert [one["key"] for one in later["subtasks"]] == ["third"]
        assert later["taskDefinitionId"] > version

    def test_the_definition_names_the_duplicates_and_what_becomes_of_them(self, api: ApiClient) -> None:
        put(api, onDuplicate="return")
        put(api, "other", onDuplicate="return")
        first = submitted(api, instanceId=42)

        again, refused, other = (
            submitted(api, instanceId=42),
            submitted(api, instanceId=42, onDuplicate="reject"),
            submitted(api, "other", instanceId=42),
        )

        assert [one.status_code for one in (first, again, refused, other)] == [201, 200, 409, 201]
        assert again.json()["data"]["id"] == first.json()["data"]["id"]

    def test_what_cannot_be_submitted_is_told(self, api: ApiClient) -> None:
        put(api, subtasks=[{**SUBTASK, "arguments": {"n": {"$arg": "/n"}}}])
        api.request("PUT", "/definitions/hook", json={"callback": {"url": "http://hooks.example.org"}})

        unknown = refusal(submitted(api, "prepair"))
        empty = refusal(submitted(api, "hook"))
        missing = refusal(submitted(api))
        both = refusal(submitted(api, subtasks=[SUBTASK]))
        theirs = refusal(submitted(api.acting(Role.ADMIN, "theirs")))

        assert [one["code"] for one in (unknown, empty, missing, both, theirs)] == [20001] * 3 + [10001, 20001]
        assert "'prepair' does not exist: did you mean 'prepare'" in unknown["message"]
        assert "has a callback and no subtasks" in empty["message"]
        assert missing["target"] == "/subtasks/0/arguments/n"
        assert "'/n' leads nowhere" in missing["message"]
        assert "list the definitions" in theirs["message"]

    def test_a_batch_takes_one_version_and_names_the_submission_that_is_wrong(self, api: ApiClient) -> None:
        put(api)
        good, bad = {"definition": "prepare"}, {"definition": "prepair"}

        made = api.post("/instances/batch", json=[good, good]).json()["data"]
        error = refusal(api.post("/instances/batch", json=[good, bad]))

        assert len({one["taskDefinitionId"] for one in made}) == 1
        assert error["target"] == "/1/definition"


def submitted(api: ApiClient, definition: str = "prepare", **members: Any) -> httpx.Response:
    return api.post("/instances", json={"definition": definition, **members})


SECRETS = {"password": "hunter2", "db": {"password": "s3cret", "host": "db1"}, "host": "h"}


class TestRedaction:
    def test_hidden_arguments_are_in_the_row_and_in_no_answer(self, api: ApiClient, engine: Engine) -> None:
        definition = put(api, redact=["password"]).json()["data"]["id"]
        task = make_task(
            engine,
            {"a": (), "b": ("a",)},
            {
                "a": {"arguments": {"password": {"$arg": "/password"}, "as": "s3cret", "host": "h"}},
                "b": {"arguments": {"password": "literal"}},
            },
            arguments=SECRETS,
            definition_id=definition,
        )
        task.run("a", result={"echoed": "hunter2", "host": "h"})

        detail = api.get(f"/instances/{task.id}")
        first = api.get(f"/instances/{task.id}/subtasks/{task.ids['a']}")
        second = api.get(f"/instances/{task.id}/subtasks/{task.ids['b']}")
        listed = api.get("/instances")

        data = detail.json()["data"]
        assert data["arguments"] == {"password": MASK, "db": {"password": MASK, "host": "db1"}, "host": "h"}
        assert data["subtasks"][0]["result"] == {"echoed": MASK, "host": "h"}
        assert first.json()["data"]["arguments"] == {"password": {"$arg": "/password"}, "as": MASK, "host": "h"}
        assert second.json()["data"]["arguments"] == {"password": MASK}
        for answer in (detail, first, second, listed):
            assert not [secret for secret in ("hunter2", "s3cret", "literal") if secret in answer.text]
        assert "hunter2" in task.column("argument")

    def test_a_task_keeps_hiding_what_its_own_version_hides(self, api: ApiClient, engine: Engine) -> None:
        definition = put(api, redact=["password"]).json()["data"]["id"]
        task = make_task(engine, {"a": ()}, arguments=SECRETS, definition_id=definition)
        put(api)
        api.request("DELETE", "/definitions/prepare")

        assert api.data(f"/instances/{task.id}")["arguments"]["password"] == MASK

    def test_a_task_without_a_definition_shows_its_arguments(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, arguments=SECRETS)

        assert api.data(f"/instances/{task.id}")["arguments"] == SECRETS
