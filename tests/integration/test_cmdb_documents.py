"""What the BK-CMDB dialect shows of a task: its two tables, field by field."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime

import jsonschema_rs
import pytest
from sqlalchemy import Engine

from taskserver.embedded.stack import EmbeddedStack
from taskserver.queries import cmdb_tasks
from tests.api_client import ApiClient
from tests.cmdb_calls import cmdb_api, create, data, define, hands, post, shown
from tests.factories import make_task, one


def is_hex(length: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and len(value) == length and set(value) <= set("0123456789abcdef")


def is_moment(value: object) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def is_a(sort: type) -> Callable[[object], bool]:
    return lambda value: type(value) is sort


# The two published tables, field by field; a header is a map of lists, as Go writes an http.Header.
TASK: dict[str, Callable[[object], bool]] = {
    "_id": is_hex(24),
    "task_id": is_hex(32),
    "task_type": is_a(str),
    "bk_inst_id": is_a(int),
    "user": is_a(str),
    "header": lambda value: isinstance(value, dict) and all(isinstance(one, list) for one in value.values()),
    "status": is_a(str),
    "detail": is_a(list),
    "bk_supplier_account": is_a(str),
    "create_time": is_moment,
    "last_time": is_moment,
}
HISTORY: dict[str, Callable[[object], bool]] = {
    "_id": is_hex(24),
    "task_id": is_hex(32),
    "task_type": is_a(str),
    "bk_inst_id": is_a(int),
    "status": is_a(str),
    "creator": is_a(str),
    "bk_supplier_account": is_a(str),
    "create_time": is_moment,
    "last_time": is_moment,
}


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with cmdb_api(engine, stack.redis_url) as api:
        yield api


class TestDocuments:
    def test_a_task_has_exactly_the_published_fields(self, api: ApiClient) -> None:
        task = create(api, 7, elements=2)

        assert set(task) == set(TASK)
        assert [name for name, is_right in TASK.items() if not is_right(task[name])] == []
        assert (task["task_type"], task["bk_inst_id"], task["user"], task["status"]) == ("sync", 7, "admin", "new")
        assert (task["bk_supplier_account"], task["_id"]) == ("0", task["task_id"][:24])

    def test_a_subtask_has_exactly_the_published_fields(self, api: ApiClient) -> None:
        first, second = create(api, elements=2)["detail"]

        assert set(first) == {"sub_task_id", "data", "status", "response"}
        assert (first["data"], first["status"], first["response"]) == ({"n": 0}, "new", None)
        assert is_hex(32)(first["sub_task_id"])
        assert first["sub_task_id"] < second["sub_task_id"]

    def test_a_row_of_the_history_has_exactly_the_published_fields(self, api: ApiClient) -> None:
        task = create(api, 7)

        [row] = data(api, "/findmany/sync_status_history", {})["info"]

        assert set(row) == set(HISTORY)
        assert [name for name, is_right in HISTORY.items() if not is_right(row[name])] == []
        assert {name: row[name] for name in ("_id", "task_id", "task_type", "bk_inst_id", "status")} == {
            name: task[name] for name in ("_id", "task_id", "task_type", "bk_inst_id", "status")
        }
        assert row["creator"] == task["user"]

    def test_extra_is_there_where_a_task_has_one(self, api: ApiClient) -> None:
        task = create(api, extra=12)

        [row] = data(api, "/findmany/sync_status_history", {})["info"]

        assert (task["extra"], row["extra"]) == ("12", "12")

    def test_elements_come_back_as_they_were_given(self, api: ApiClient) -> None:
        given = [{"a": {"$arg": "/x"}}, 5, "text", None, [1, [2]], {}, {"data": 1}, {"$literal": {"$from": "b"}}]

        task = data(api, "/task/create", {"task_type": "sync", "bk_inst_id": 1, "data": given})

        assert [one["data"] for one in task["detail"]] == given

    def test_the_white_listed_header_is_kept_as_lists_and_nothing_else(self, api: ApiClient) -> None:
        headers = {
            "Cc_Request_Id": "cc0001",
            "BK_User": "someone",
            "HTTP_BLUEKING_LANGUAGE": "en",
            "BK_Token": "secret-token",
            "Cookie": "bk_ticket=secret-ticket",
            "X-Other": "other",
        }
        body = {"task_type": "sync", "bk_inst_id": 1, "data": [1]}

        answer = post(api, "/task/create", body, headers=headers)

        header = answer.json()["data"]["header"]
        assert (header["Cc_request_id"], header["Bk_user"]) == (["cc0001"], ["someone"])
        assert header["Http_blueking_language"] == ["en"]
        assert not [value for value in header.values() if "secret" in value[0] or value == ["other"]]
        assert answer.headers["Cc_Request_Id"] == "cc0001"

    def test_names_in_a_header_are_spelled_as_go_looks_for_them_and_replayed_as_they_came(
        self, api: ApiClient, engine: Engine
    ) -> None:
        headers = {"BK_User": "someone", "HTTP_BLUEKING_SUPPLIER_ID": "0", "x-bkcmdb-rid": "cc1"}
        body = {"task_type": "sync", "bk_inst_id": 1, "data": [1]}

        header = data(api, "/task/create", body, headers=headers)["header"]

        assert header == {"Bk_user": ["someone"], "Http_blueking_supplier_id": ["0"], "X-Bkcmdb-Rid": ["cc1"]}
        stored = one(engine, "SELECT header FROM tasks")["header"]
        assert stored == {"BK_User": "someone", "HTTP_BLUEKING_SUPPLIER_ID": "0", "X-Bkcmdb-Rid": "cc1"}

    @pytest.mark.parametrize(
        "headers", [{"BK_User": "alice"}, {"X-Bkcmdb-User": "alice"}, {"BK_User": "bob", "X-Bkcmdb-User": "alice"}]
    )
    def test_the_user_is_who_the_request_names(self, api: ApiClient, engine: Engine, headers: dict[str, str]) -> None:
        body = {"task_type": "sync", "bk_inst_id": 1, "data": [1]}
        task = data(api, "/task/create", body, headers=headers)
        hands(engine, task).run("data[0]")
        history = "/findmany/sync_status_history"

        for path, member in (("/task/findmany/list/sync", "user"), (history, "creator")):
            found = data(api, path, {"condition": {member: "alice"}})["info"]
            assert [one[member] for one in found] == ["alice"]
            assert data(api, path, {"condition": {member: {"$ne": "alice"}}})["info"] == []

        data(api, "/task/deletemany", {"condition": {"user": "alice"}})
        assert [one["creator"] for one in data(api, history, {})["info"]] == ["alice"]

    def test_who_made_a_task_is_the_principal_everywhere_else(self, api: ApiClient) -> None:
        body = {"task_type": "sync", "bk_inst_id": 1, "data": [1]}
        data(api, "/task/create", body, headers={"BK_User": "alice"})

        [task] = api.data("/instances")["contents"]

        assert task["creator"]["name"] == "admin"

    def test_the_whole_answer_of_the_receiver_is_shown(self, api: ApiClient, engine: Engine) -> None:
        document = create(api, elements=3)
        said = {"result": True, "bk_error_code": 0, "bk_error_msg": "success", "permission": None, "data": {"x": [1]}}
        refused = {"result": False, "bk_error_code": 1101001, "bk_error_msg": "no", "permission": None, "data": None}
        task = hands(engine, document)
        task.run("data[0]", result=said)
        task.run("data[1]", verdict="FAILED", result=refused)

        found = shown(api, document)

        assert found["status"] == "failure"
        assert [(one["status"], one["response"]) for one in found["detail"]] == [
            ("finished", said),
            ("failure", refused),
            ("new", None),
        ]

    def test_what_came_without_an_answer_is_told_in_the_form_of_one(self, api: ApiClient, engine: Engine) -> None:
        document = create(api, elements=1)
        hands(engine, document).run("data[0]", verdict="FAILED", error_message="the receiver did not answer")

        [subtask] = shown(api, document)["detail"]

        assert subtask["response"] == {
            "result": False,
            "bk_error_code": 1199002,
            "bk_error_msg": "the receiver did not answer",
            "permission": None,
            "data": None,
        }

    def test_tasks_of_any_kind_appear_where_their_type_is_asked(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(
            engine, {"a": (), "b": ("a",)}, {"a": {"arguments": {"x": 1}}}, task_type="build", instance_id=3
        )
        task.run("a", result=[1, 2])

        [found] = data(api, "/task/findmany/list/build", {})["info"]

        assert (found["task_type"], found["bk_inst_id"], found["header"], found["status"]) == (
            "build",
            3,
            {},
            "executing",
        )
        assert [(one["data"], one["status"]) for one in found["detail"]] == [({"x": 1}, "finished"), ({}, "new")]
        assert found["detail"][0]["response"]["data"] == [1, 2]
        assert found["detail"][0]["response"]["result"] is True

    def test_a_task_without_an_instance_shows_null(self, api: ApiClient, engine: Engine) -> None:
        make_task(engine, {"a": ()})

        [found] = data(api, "/task/findmany/list/inline", {})["info"]
        [row] = data(api, "/findmany/sync_status_history", {})["info"]

        assert (found["bk_inst_id"], row["bk_inst_id"]) == (None, None)

    def test_what_the_definition_hides_is_hidden(self, api: ApiClient, engine: Engine) -> None:
        define(api, "secretive", redact=["password"])
        body = {"task_type": "secretive", "bk_inst_id": 1, "data": [{"password": "hunter2", "host": "h"}]}
        document = data(api, "/task/create", body)
        echoed = {"result": True, "bk_error_code": 0, "bk_error_msg": "", "data": {"given": "hunter2", "password": "x"}}
        hands(engine, document).run("data[0]", result=echoed)

        found = shown(api, document)

        assert "hunter2" not in json.dumps([document, found])
        assert found["detail"][0]["data"] == {"password": "******", "host": "h"}
        assert found["detail"][0]["response"]["data"] == {"given": "******", "password": "******"}

    def test_a_large_task_is_cut_and_says_so(self, api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cmdb_tasks, "MAX_SUBTASKS", 5)
        small, large, last = (create(api, instance, elements=elements) for instance, elements in enumerate((2, 9, 1)))

        found = data(api, "/task/findmany/list/sync", {})["info"]

        assert [len(one["detail"]) for one in found] == [2, 3, 0]
        assert [one.get("detail_omitted") for one in found] == [None, 6, 1]
        assert [len(shown(api, one)["detail"]) for one in (small, large, last)] == [2, 5, 1]

    def test_large_elements_are_cut_by_their_size(self, api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cmdb_tasks, "MAX_BYTES", 1_000)

        found = create(api, elements=40)

        assert 0 < len(found["detail"]) < 40
        assert found["detail_omitted"] == 40 - len(found["detail"])

    def test_what_is_cut_is_said_also_where_only_the_detail_is_asked_for(
        self, api: ApiClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cmdb_tasks, "MAX_SUBTASKS", 5)
        create(api, elements=9)

        [cut] = data(api, "/task/findmany/list/latest/sync", {"fields": ["detail"]})
        [short] = data(api, "/task/findmany/list/latest/sync", {"fields": ["status"]})

        assert (len(cut["detail"]), cut["detail_omitted"], set(short)) == (5, 4, {"status"})

    def test_headers_are_left_out_where_they_are_too_large_together(
        self, api: ApiClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for instance in range(4):
            create(api, instance)
        size = one(engine, "SELECT pg_column_size(header) AS size FROM tasks LIMIT 1")["size"]
        monkeypatch.setattr(cmdb_tasks, "MAX_BYTES", size * 2)

        found = data(api, "/task/findmany/list/sync", {"fields": ["header"]})["info"]

        assert [bool(one["header"]) for one in found] == [True, True, False, False]
        assert [one.get("header_omitted") for one in found] == [None, None, True, True]

    def test_hidden_values_count_among_what_is_read(self, api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
        define(api, "secretive", redact=["password"])
        for instance in range(3):
            body = {"task_type": "secretive", "bk_inst_id": instance, "data": [{"password": f"{instance}" * 900}]}
            data(api, "/task/create", body)
        monkeypatch.setattr(cmdb_tasks, "MAX_BYTES", 100_000)
        assert [len(one["detail"]) for one in data(api, "/task/findmany/list/secretive", {})["info"]] == [1, 1, 1]

        monkeypatch.setattr(cmdb_tasks, "MAX_BYTES", 100)
        found = data(api, "/task/findmany/list/secretive", {})["info"]

        assert [one["detail_omitted"] for one in found] == [1, 1, 1]

    def test_documents_are_as_the_description_says(self, api: ApiClient, engine: Engine) -> None:
        described = api.get("//openapi.json").json()
        hands(engine, create(api, 1, extra="x", elements=2)).run("data[0]")
        make_task(engine, {"a": ()}, task_type="sync")

        for path in (
            "/task/findmany/list/{name}",
            "/task/findmany/list/latest/{name}",
            "/findmany/latest/sync_status",
            "/findmany/sync_status_history",
        ):
            for body in ({}, {"fields": ["status"]}):
                answers = described["paths"][f"/task/v3{path}"]["post"]["responses"]["200"]["content"]
                schema = {**answers["application/json"]["schema"], "components": described["components"]}
                answer = post(api, path.format(name="sync"), body).json()

                assert answer["data"]
                jsonschema_rs.validate(schema, answer)
