"""The BK-CMDB dialect: its documents field by field, its calls, and how it says what is wrong."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import httpx
import jsonschema_rs
import pytest
from sqlalchemy import Engine

from schema.identity import SubtaskId, TaskId
from schema.transitions.cancellations import cancel_task
from schema.transitions.holds import pause
from schema.transitions.orders import Order
from schema.transitions.skips import skip_subtask
from taskserver.dialects import cmdb
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from taskserver.queries import cmdb_tasks
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, execute, make_task, many, one

HOST = "hooks.example.org"
ORDER = Order("operator", "0")
Document = dict[str, Any]


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
    with running_api(engine, stack.redis_url, callback_hosts=(HOST,)) as api:
        define(api, "sync")
        yield api


def define(api: ApiClient, name: str, **members: object) -> None:
    document = {"callback": {"url": f"https://{HOST}", "path": "/sync"}, **members}
    answer = api.request("PUT", f"/definitions/{name}", json=document)
    assert answer.status_code in {200, 201}, answer.text


def post(api: ApiClient, path: str, body: object = None, **options: Any) -> httpx.Response:
    if body is not None:
        options["json"] = body
    return api.post(f"//task/v3{path}", **options)


def data(api: ApiClient, path: str, body: object = None, **options: Any) -> Any:
    answer = post(api, path, body, **options)
    document = answer.json()
    assert answer.status_code == 200, answer.text
    assert set(document) == {"result", "bk_error_code", "bk_error_msg", "permission", "data"}
    assert document["result"] is True, document["bk_error_msg"]
    assert (document["bk_error_code"], document["bk_error_msg"], document["permission"]) == (0, "success", None)
    return document["data"]


def refusal(answer: httpx.Response, *, status: int = 200) -> tuple[int, str]:
    document = answer.json()
    assert answer.status_code == status, answer.text
    assert set(document) == {"result", "bk_error_code", "bk_error_msg", "permission", "data"}
    assert (document["result"], document["permission"], document["data"]) == (False, None, None)
    return document["bk_error_code"], document["bk_error_msg"]


def create(api: ApiClient, instance: int = 1, *, of: str = "sync", elements: int = 1, **members: object) -> Document:
    body = {"task_type": of, "bk_inst_id": instance, "data": [{"n": n} for n in range(elements)], **members}
    created: Document = data(api, "/task/create", body)
    return created


def hands(engine: Engine, document: Document) -> StoredTask:
    """Return what works on a task, by the keys of its subtasks."""
    task = one(engine, "SELECT id FROM tasks WHERE task_id = :hex", hex=document["task_id"])["id"]
    rows = many(engine, "SELECT key, id FROM subtask_specs WHERE task_id = :task ORDER BY series_id", task=task)
    return StoredTask(engine, TaskId(task), {row["key"]: SubtaskId(row["id"]) for row in rows})


def shown(api: ApiClient, document: Document) -> Document:
    found: Document = data(api, f"/task/findone/detail/{document['task_id']}")["info"]
    return found


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


class TestStatus:
    def statuses(self, api: ApiClient, document: Document) -> tuple[str, str, list[str]]:
        [row] = data(api, "/findmany/sync_status_history", {"condition": {"task_id": document["task_id"]}})["info"]
        found = shown(api, document)
        return found["status"], row["status"], [one["status"] for one in found["detail"]]

    def test_a_task_goes_from_new_to_finished(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        task = hands(engine, document)
        seen = [self.statuses(api, document)]

        claimed = task.begin("data[0]")
        seen.append(self.statuses(api, document))
        task.record(claimed)
        seen.append(self.statuses(api, document))

        assert seen == [
            ("new", "new", ["new"]),
            ("executing", "executing", ["executing"]),
            ("finished", "finished", ["finished"]),
        ]

    def test_what_is_to_run_again_is_waiting(self, api: ApiClient, engine: Engine) -> None:
        document = create(api, elements=2)
        task = hands(engine, document)
        claimed = task.begin("data[0]")

        task.record(claimed, "RETRY", delay_seconds=60.0)

        assert self.statuses(api, document) == ("executing", "executing", ["waiting", "new"])

    def test_a_task_that_waits_for_its_instance_is_waiting(self, api: ApiClient) -> None:
        define(api, "lined", onDuplicate="queue")
        create(api, 1, of="lined")

        behind = create(api, 1, of="lined")

        assert behind["status"] == "waiting"
        found = data(api, "/task/findmany/list/lined", {"condition": {"status": "waiting"}})
        assert [one["task_id"] for one in found["info"]] == [behind["task_id"]]

    def test_a_paused_task_is_waiting(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        with hands(engine, document).locked() as (connection, locked):
            pause(connection, locked.id, ORDER)

        assert self.statuses(api, document)[:2] == ("waiting", "waiting")

    def test_a_cancelled_task_is_a_failure(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        with hands(engine, document).locked() as (connection, locked):
            cancel_task(connection, locked.id, ORDER)

        assert self.statuses(api, document) == ("failure", "failure", ["new"])

    def test_a_skipped_subtask_is_finished(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        task = hands(engine, document)
        task.run("data[0]", verdict="FAILED")
        with task.locked() as (connection, locked):
            skip_subtask(connection, locked.id, task.ids["data[0]"], ORDER)

        assert self.statuses(api, document) == ("finished", "finished", ["finished"])
        assert shown(api, document)["detail"][0]["response"]["result"] is True

    @pytest.mark.parametrize(
        ("state", "status"),
        [
            ("CREATED", "new"),
            ("RUNNING", "executing"),
            ("SUSPENDED", "waiting"),
            ("SUCCESSFUL", "finished"),
            ("FAILED", "failure"),
            ("REVOKED", "failure"),
            ("ROLLED_BACK", "failure"),
        ],
    )
    def test_every_state_is_shown_and_found_under_its_word(
        self, api: ApiClient, engine: Engine, state: str, status: str
    ) -> None:
        document = create(api)
        execute(
            engine,
            "UPDATE tasks SET state = :state, finalized_at = CASE WHEN :state IN ('CREATED', 'RUNNING', 'SUSPENDED')"
            " THEN NULL ELSE now() END",
            state=state,
        )

        assert self.statuses(api, document)[:2] == (status, status)
        for path, member in (("/task/findmany/list/sync", "info"), ("/findmany/sync_status_history", "info")):
            assert len(data(api, path, {"condition": {"status": {"$in": [status]}}})[member]) == 1
            assert len(data(api, path, {"condition": {"status": {"$ne": status}}})[member]) == 0
            assert len(data(api, path, {"condition": {"status": "need_sync"}})[member]) == 0


class TestCreation:
    def test_a_second_unsettled_task_of_an_instance_is_a_duplicate(self, api: ApiClient) -> None:
        create(api, 5)

        code, message = refusal(post(api, "/task/create", {"task_type": "sync", "bk_inst_id": 5, "data": [1]}))

        assert code == 1117008
        assert "instance 5 has not settled" in message

    def test_extra_tells_tasks_of_an_instance_apart(self, api: ApiClient) -> None:
        create(api, 5, extra="a")

        assert create(api, 5, extra="b")["extra"] == "b"

    def test_another_task_can_follow_when_the_first_has_settled(self, api: ApiClient, engine: Engine) -> None:
        hands(engine, create(api, 5)).run("data[0]", verdict="FAILED")

        assert create(api, 5)["status"] == "new"

    def test_many_are_created_in_their_order(self, api: ApiClient) -> None:
        bodies = [{"task_type": "sync", "bk_inst_id": instance, "data": [instance]} for instance in (3, 1, 2)]

        created = data(api, "/createmany/task", bodies)

        assert [one["bk_inst_id"] for one in created] == [3, 1, 2]
        assert [one["detail"][0]["data"] for one in created] == [3, 1, 2]

    def test_of_many_all_are_stored_or_none(self, api: ApiClient, engine: Engine) -> None:
        create(api, 2)
        bodies = [{"task_type": "sync", "bk_inst_id": instance, "data": [1]} for instance in (1, 2, 3)]

        code, _ = refusal(post(api, "/createmany/task", bodies))

        assert code == 1117008
        assert one(engine, "SELECT count(*) AS count FROM tasks")["count"] == 1

    def test_duplicates_inside_one_call_are_found(self, api: ApiClient, engine: Engine) -> None:
        bodies = [{"task_type": "sync", "bk_inst_id": 1, "data": [n]} for n in range(2)]

        code, _ = refusal(post(api, "/createmany/task", bodies))

        assert code == 1117008
        assert one(engine, "SELECT count(*) AS count FROM tasks")["count"] == 0

    def test_no_tasks_make_none(self, api: ApiClient) -> None:
        assert data(api, "/createmany/task", []) == []

    def test_an_instance_that_is_not_given_is_0(self, api: ApiClient) -> None:
        assert data(api, "/task/create", {"task_type": "sync", "data": [1]})["bk_inst_id"] == 0

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"task_type": "unheard", "bk_inst_id": 1, "data": [1]}, "definition 'unheard' does not exist"),
            ({"task_type": "sync", "bk_inst_id": 1, "data": []}, "/data: must have at least 1"),
            ({"task_type": "sync", "bk_inst_id": 1, "data": ["a\x00"]}, "/data/0"),
            ({"task_type": "sync", "bk_inst_id": 1, "dat": [1]}, "/data: is required"),
            ([], "must be an object"),
        ],
    )
    def test_what_cannot_be_created_is_told(self, api: ApiClient, engine: Engine, body: object, said: str) -> None:
        code, message = refusal(post(api, "/task/create", body))

        assert code == 1199006
        assert said in message
        assert not many(engine, "SELECT id FROM tasks")

    def test_a_wrong_task_of_many_is_named_by_its_place(self, api: ApiClient) -> None:
        bodies = [{"task_type": "sync", "bk_inst_id": 1, "data": [1]}, {"task_type": "sync", "bk_inst_id": "x"}]

        code, message = refusal(post(api, "/createmany/task", bodies))

        assert code == 1199006
        assert message.startswith("/1: ")

    def test_too_many_at_once_are_refused(self, api: ApiClient) -> None:
        bodies = [{"task_type": "sync", "bk_inst_id": n, "data": [1]} for n in range(1_001)]

        assert "at most 1000 tasks" in refusal(post(api, "/createmany/task", bodies))[1]


class TestLists:
    def test_a_list_has_count_and_page(self, api: ApiClient) -> None:
        for instance in range(5):
            create(api, instance)

        found = data(api, "/task/findmany/list/sync", {"page": {"start": 1, "limit": 2, "sort": "-bk_inst_id"}})

        assert [one["bk_inst_id"] for one in found["info"]] == [3, 2]
        assert (found["count"], found["page"]) == (5, {"start": 1, "limit": 2, "sort": "-bk_inst_id"})

    def test_without_an_order_the_oldest_come_first(self, api: ApiClient) -> None:
        created = [create(api, instance)["task_id"] for instance in (3, 1, 2)]

        assert [one["task_id"] for one in data(api, "/task/findmany/list/sync", {})["info"]] == created

    def test_a_list_is_of_one_type(self, api: ApiClient) -> None:
        define(api, "other")
        create(api)

        assert data(api, "/task/findmany/list/other", {})["info"] == []
        assert data(api, "/task/findmany/list/sync", {"condition": {"task_type": "other"}})["info"] == []

    def test_no_body_asks_for_all(self, api: ApiClient) -> None:
        create(api)

        assert data(api, "/task/findmany/list/sync")["count"] == 1
        assert data(api, "/task/findmany/list/sync", content=b"null")["count"] == 1

    def test_a_page_that_asks_for_a_count_is_answered_as_by_the_original(self, api: ApiClient) -> None:
        create(api)

        found = data(api, "/task/findmany/list/sync", {"page": {"start": 0, "limit": 5, "enable_count": True}})

        assert (len(found["info"]), found["count"], found["page"]) == (1, 1, {"start": 0, "limit": 5})

    def test_more_than_a_page_can_hold_must_be_paged(self, api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cmdb, "MAX_TASKS", 2)
        monkeypatch.setattr(cmdb, "MAX_HISTORY", 2)
        for instance in range(3):
            create(api, instance)

        for path in (
            "/task/findmany/list/sync",
            "/task/findmany/list/latest/sync",
            "/findmany/latest/sync_status",
            "/findmany/sync_status_history",
        ):
            assert "more than 2 match" in refusal(post(api, path, {}))[1]
            assert "more than 2 match" in refusal(post(api, path, {"page": {"limit": 999_999_999}}))[1]
            assert len(json.dumps(data(api, path, {"page": {"limit": 2}}))) > 0

    def test_the_newest_task_of_each_instance_is_found(self, api: ApiClient, engine: Engine) -> None:
        define(api, "again", onDuplicate="allow")
        ids = [create(api, instance, of="again")["task_id"] for instance in (1, 2, 1, 3, 1)]
        make_task(engine, {"a": ()}, task_type="again")

        found = data(api, "/task/findmany/list/latest/again", {})

        assert [(one["bk_inst_id"], one["task_id"]) for one in found] == [(1, ids[4]), (2, ids[1]), (3, ids[3])]

    def test_only_the_fields_asked_for_are_answered(self, api: ApiClient) -> None:
        document = create(api, 4)

        tasks = data(api, "/task/findmany/list/latest/sync", {"fields": ["task_id", "status", "bk_task_id"]})
        rows = data(api, "/findmany/latest/sync_status", {"fields": ["bk_inst_id", "creator"]})

        assert tasks == [{"task_id": document["task_id"], "status": "new"}]
        assert rows == [{"bk_inst_id": 4, "creator": "admin"}]

    def test_the_newest_sync_status_is_told_for_each_type_and_instance(self, api: ApiClient) -> None:
        for name in ("other", "again"):
            define(api, name, onDuplicate="allow")
        ids = [create(api, n, of=of)["task_id"] for n, of in ((1, "other"), (1, "again"), (1, "again"), (2, "again"))]

        found = data(api, "/findmany/latest/sync_status", {"condition": {"bk_inst_id": {"$in": [1, 2]}}})
        second = data(api, "/findmany/latest/sync_status", {"page": {"start": 1, "limit": 1}})

        assert [one["task_id"] for one in found] == [ids[2], ids[3], ids[0]]
        assert [one["task_id"] for one in second] == [ids[3]]

    def test_conditions_come_before_the_newest_is_chosen(self, api: ApiClient, engine: Engine) -> None:
        old = create(api, 1)
        hands(engine, old).run("data[0]")
        create(api, 1)

        [found] = data(api, "/findmany/latest/sync_status", {"condition": {"status": "finished"}})
        [task] = data(api, "/task/findmany/list/latest/sync", {"condition": {"status": "finished"}})

        assert (found["task_id"], task["task_id"]) == (old["task_id"], old["task_id"])

    def test_the_history_counts_unless_it_must_not(self, api: ApiClient) -> None:
        for instance in range(3):
            create(api, instance)

        counted = data(api, "/findmany/sync_status_history", {"page": {"start": 0, "limit": 1}})
        not_counted = data(api, "/findmany/sync_status_history", {"disable_counter": True})

        assert (counted["count"], len(counted["info"])) == (3, 1)
        assert (not_counted["count"], len(not_counted["info"])) == (0, 3)

    def test_the_history_is_found_by_what_clients_of_the_original_ask(self, api: ApiClient) -> None:
        ids = [create(api, instance)["task_id"] for instance in range(3)]
        condition = {"task_type": "sync", "task_id": {"$in": [ids[0], ids[2], "id:c000"]}, "bk_supplier_account": "0"}

        found = data(api, "/findmany/sync_status_history", {"condition": condition, "fields": ["task_id", "status"]})

        assert [one["task_id"] for one in found["info"]] == [ids[0], ids[2]]

    def test_a_task_is_found_by_every_value_that_it_shows(self, api: ApiClient) -> None:
        create(api, 1, extra="x")
        task = create(api, 2, extra="y")
        [row] = data(api, "/findmany/sync_status_history", {"condition": {"bk_inst_id": 2}})["info"]

        for path, document in (("/task/findmany/list/sync", task), ("/findmany/sync_status_history", row)):
            for name in document.keys() - {"detail", "header"}:
                equal = data(api, path, {"condition": {name: document[name], "bk_inst_id": 2}})["info"]
                bounded = {name: {"$gte": document[name], "$lte": document[name]}, "task_id": document["task_id"]}
                between = data(api, path, {"condition": bounded})["info"]
                above = {"bk_inst_id": 2, name: {"$gt": document[name]}}
                outside = data(api, path, {"condition": above})["info"]

                assert [one["task_id"] for one in equal] == [document["task_id"]], name
                assert [one["task_id"] for one in between] == [document["task_id"]], name
                assert outside == [], name

    def test_what_has_no_instance_is_unlike_every_instance(self, api: ApiClient, engine: Engine) -> None:
        make_task(engine, {"a": ()})
        make_task(engine, {"a": ()}, instance_id=1)

        for condition, count in (
            ({"$ne": 1}, 1),
            ({"$nin": [1]}, 1),
            ({"$nin": []}, 2),
            ({"$in": []}, 0),
            ({"$gt": 0}, 1),
        ):
            found = data(api, "/task/findmany/list/inline", {"condition": {"bk_inst_id": condition}})

            assert found["count"] == count, condition

    def test_a_task_that_is_not_there_is_null(self, api: ApiClient) -> None:
        for unknown in ("0" * 32, "id:c0", "x", "A" * 32, "%00", "5"):
            assert data(api, f"/task/findone/detail/{unknown}") == {"info": None}

    def test_a_name_that_cannot_be_one_is_refused(self, api: ApiClient) -> None:
        assert "U+0000" in refusal(post(api, "/task/findmany/list/a%00b", {}))[1]


class TestDeletion:
    def test_settled_tasks_are_deleted_and_others_left(self, api: ApiClient, engine: Engine) -> None:
        ended, open_ = create(api, 1, elements=2), create(api, 2)
        hands(engine, ended).run("data[0]", verdict="FAILED")

        answer = data(api, "/task/deletemany", {"condition": {"bk_inst_id": {"$in": [1, 2]}}})

        assert answer == "success"
        assert shown(api, ended) is None
        assert shown(api, open_)["status"] == "new"
        assert data(api, "/findmany/sync_status_history", {})["count"] == 2

    @pytest.mark.parametrize("body", [None, {}, {"condition": {}}, {"condition": None}])
    def test_a_condition_is_required(self, api: ApiClient, engine: Engine, body: object) -> None:
        hands(engine, create(api)).run("data[0]")

        assert "condition: is required" in refusal(post(api, "/task/deletemany", body))[1]
        assert many(engine, "SELECT id FROM tasks")

    def test_a_deletion_cannot_be_paged(self, api: ApiClient, engine: Engine) -> None:
        hands(engine, create(api)).run("data[0]")

        _, message = refusal(post(api, "/task/deletemany", {"condition": {"bk_inst_id": 1}, "page": {"limit": 1}}))

        assert "/page: is not a field here" in message
        assert many(engine, "SELECT id FROM tasks")

    def test_too_many_at_once_delete_nothing(
        self, api: ApiClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cmdb, "MAX_DELETED", 1)
        for instance in range(2):
            hands(engine, create(api, instance)).run("data[0]")

        _, message = refusal(post(api, "/task/deletemany", {"condition": {"task_type": "sync"}}))

        assert "more than 1 settled tasks match, none was deleted" in message
        assert len(many(engine, "SELECT id FROM tasks")) == 2


class TestAccess:
    CALLS = (
        ("/task/findone/detail/" + "0" * 32, Role.TASK_VIEWER),
        ("/task/findmany/list/sync", Role.TASK_VIEWER),
        ("/task/findmany/list/latest/sync", Role.TASK_VIEWER),
        ("/findmany/latest/sync_status", Role.TASK_VIEWER),
        ("/findmany/sync_status_history", Role.TASK_VIEWER),
        ("/task/create", Role.TASK_SUBMITTER),
        ("/createmany/task", Role.TASK_SUBMITTER),
        ("/task/deletemany", Role.TASK_MANAGER),
    )

    @pytest.mark.parametrize("path", [path for path, _ in CALLS])
    def test_nobody_unknown_learns_anything(self, api: ApiClient, path: str) -> None:
        code, _ = refusal(post(api.bearing(None), path, {}), status=401)

        assert code == 1199027

    @pytest.mark.parametrize(("path", "needed"), CALLS)
    def test_each_call_needs_its_role(self, api: ApiClient, path: str, needed: Role) -> None:
        roles = [Role.TASK_VIEWER, Role.TASK_SUBMITTER, Role.TASK_MANAGER]

        for role in roles:
            answer = post(api.acting(role), path, {})

            if role.covers(needed):
                assert answer.status_code == 200
            else:
                assert refusal(answer, status=403)[0] == 9900403

    def test_another_account_sees_and_deletes_nothing(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        hands(engine, document).run("data[0]")
        other = api.acting(Role.TASK_MANAGER, account="1")
        mine = {"condition": {"bk_supplier_account": "0"}}

        assert shown(other, document) is None
        assert data(other, "/task/findmany/list/sync", mine)["count"] == 0
        assert data(other, "/task/findmany/list/latest/sync", mine) == []
        assert data(other, "/findmany/latest/sync_status", mine) == []
        assert data(other, "/findmany/sync_status_history", mine)["count"] == 0
        assert data(other, "/task/deletemany", mine) == "success"
        assert shown(api, document)["status"] == "finished"


class TestErrors:
    @pytest.mark.parametrize("name", ["Cc_Request_Id", "X-Bkcmdb-Rid", "X-Bkapi-Request-Id", "x-trace-id"])
    def test_the_request_id_is_answered_and_stored(self, api: ApiClient, engine: Engine, name: str) -> None:
        body = {"task_type": "sync", "bk_inst_id": 1, "data": [1]}

        answer = post(api, "/task/create", body, headers={name: "cc-77"})

        assert answer.headers["Cc_Request_Id"] == "cc-77"
        assert one(engine, "SELECT trace_id FROM tasks")["trace_id"] == "cc-77"

    def test_an_address_that_is_not_there_is_told_in_the_envelope(self, api: ApiClient) -> None:
        assert refusal(post(api, "/task/nowhere", {}), status=404)[0] == 1199019

    def test_a_method_that_is_not_there_is_told_in_the_envelope(self, api: ApiClient) -> None:
        answer = api.get("//task/v3/task/create")

        assert refusal(answer, status=405)[0] == 1199003
        assert answer.headers["allow"] == "POST"

    @pytest.mark.parametrize(
        "body", [b"{", b'{"condition": {"a": NaN}}', b"[]", b"\xff", b'{"page": 1, "page": 2}', b"5"]
    )
    def test_a_body_that_is_none_is_refused(self, api: ApiClient, body: bytes) -> None:
        assert refusal(post(api, "/findmany/sync_status_history", content=body))[0] == 1199006

    def test_a_body_that_is_too_large_is_refused(self, engine: Engine, stack: EmbeddedStack) -> None:
        with running_api(engine, stack.redis_url, max_submission_bytes=1_000) as api:
            code, message = refusal(post(api, "/task/create", content=b" " * 2_000))

        assert code == 1199015
        assert "TASKSERVER_MAX_SUBMISSION_BYTES" in message
