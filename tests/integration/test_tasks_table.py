"""The published tasks table over HTTP: its rows, lists, inserts and errors."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.kinds import KindInfo
from schema.limits import DEFAULT_LIMITS
from schema.transitions.registrations import register_kinds
from taskserver.dispatcher.intake import Intake
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from taskserver.queries import tasks_table
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, execute, make_task, many, one

ROWS = "//api/v1/tasks"
COLUMNS = [
    "id",
    "integration_id",
    "user_id",
    "client_id",
    "account_id",
    "template_id",
    "argument",
    "status",
    "created_at",
    "updated_at",
]
ECHO = KindInfo("test.echo")
SUBTASK = {"key": "a", "kind": "test.echo"}
IDS = {"integration_id": 1, "user_id": 2, "client_id": 3, "account_id": 4}


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with transaction(engine) as connection:
        register_kinds(connection, [ECHO], code_version="v")
    with running_api(engine, stack.redis_url) as api:
        yield api


@pytest.fixture
def template(api: ApiClient) -> int:
    return put(api)


def put(api: ApiClient, name: str = "prepare", **members: Any) -> int:
    response = api.request("PUT", f"/definitions/{name}", json={"subtasks": [SUBTASK], **members})
    assert response.status_code == 201, response.text
    return int(response.json()["data"]["id"])


def post(api: ApiClient, answered: int = 201, **row: Any) -> Any:
    """Post a row; return it, or the error."""
    response = api.post(ROWS, json=row)
    assert response.status_code == answered, response.text
    body = response.json()
    if answered >= 400:
        return body["error"]
    [stored] = body["data"]
    return stored


def listed(api: ApiClient, **parameters: Any) -> list[int]:
    response = api.get(ROWS, params=parameters)
    assert response.status_code == 200, response.text
    return [row["id"] for row in response.json()["data"]]


def refusal(api: ApiClient, query: str, path: str = ROWS) -> Any:
    response = api.get(f"{path}?{query}")
    assert response.status_code == 400, response.text
    return response.json()["error"]


class TestRows:
    def test_a_row_has_exactly_the_published_columns_with_their_types(self, api: ApiClient, template: int) -> None:
        argument = '{"project":"project_name", "status": "offline"}'

        row = post(api, template_id=template, argument=argument, **IDS)

        assert list(row) == COLUMNS
        assert row == {
            **IDS,
            "id": row["id"],
            "template_id": template,
            "argument": argument,
            "status": 0,
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }
        assert all(type(row[name]) is int for name in ("id", "created_at", "updated_at"))
        assert row["created_at"] > 1_700_000_000_000

    def test_the_answers_are_what_sql_answers(self, api: ApiClient, engine: Engine, template: int) -> None:
        posted = post(api, template_id=template, argument='{"n": 1}', **IDS)
        execute(engine, "INSERT INTO tasks (template_id, argument) VALUES (:id, NULL)", id=template)

        rows = many(engine, f"SELECT {', '.join(COLUMNS)} FROM tasks ORDER BY id DESC")

        assert api.get(ROWS).json() == {"data": [dict(row) for row in rows]}
        assert api.get(f"{ROWS}/{posted['id']}").json() == {"data": [dict(rows[1])]}

    def test_a_task_of_the_main_api_is_a_row_as_well(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, arguments={"host": "h"}, integration_id=7)

        [row] = api.get(f"{ROWS}/{task.id}").json()["data"]

        assert (row["integration_id"], row["user_id"], row["argument"]) == (7, 0, '{"host": "h"}')

    def test_the_status_follows_the_task(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})

        def status() -> Any:
            return api.get(f"{ROWS}/{task.id}").json()["data"][0]["status"]

        assert status() == 0
        held = task.begin("a")
        assert status() == 1
        task.record(held)
        assert status() == 2
        failed = make_task(engine, {"a": ()})
        failed.run("a", verdict="FAILED")
        assert listed(api, status=3) == [failed.id]

    def test_what_the_definition_hides_is_hidden_in_every_row(self, api: ApiClient, engine: Engine) -> None:
        secret = put(api, redact=["password"])
        posted = post(api, template_id=secret, argument='{"password": "hunter2", "host": "höst"}')
        for argument in (None, '{"password": "hunter2"}', '{"password": "hunter2"'):
            execute(engine, "INSERT INTO tasks (template_id, argument) VALUES (:id, :text)", id=secret, text=argument)

        def shown() -> list[str]:
            answer = api.get(ROWS)
            assert "hunter2" not in answer.text
            return [row["argument"] for row in answer.json()["data"]]

        hidden = ["******", '{"password": "******"}', "", '{"password": "******", "host": "höst"}']
        assert posted["argument"] == hidden[3]
        assert shown() == hidden
        Intake(engine, DEFAULT_LIMITS).take_all()
        assert shown() == hidden

    def test_a_row_of_another_account_is_not_found(self, api: ApiClient, engine: Engine, template: int) -> None:
        mine = post(api, template_id=template)["id"]
        acme = api.acting(Role.TASK_SUBMITTER, account="acme")

        response = acme.get(f"{ROWS}/{mine}")

        assert (response.status_code, response.json()["error"]["code"]) == (404, 20000)
        assert listed(acme) == []
        assert post(acme, 400, template_id=template)["message"].startswith(f"template_id {template} is not the id")
        assert one(engine, "SELECT count(*) AS n FROM tasks")["n"] == 1


class TestList:
    @pytest.fixture
    def tasks(self, engine: Engine) -> list[StoredTask]:
        return [
            make_task(
                engine,
                {"a": ()},
                integration_id=number % 2,
                user_id=number,
                client_id=number % 3,
                account_id=-number,
                template_id=number + 10,
            )
            for number in range(6)
        ]

    @pytest.mark.parametrize(
        ("parameters", "found"),
        [
            ({"integration_id": 1}, [6, 4, 2]),
            ({"user_id": 3}, [4]),
            ({"client_id": "1,2"}, [6, 5, 3, 2]),
            ({"client_id": [1, 2]}, [6, 5, 3, 2]),
            ({"account_id": -5}, [6]),
            ({"template_id": "10,15"}, [6, 1]),
            ({"integration_id": 1, "client_id": 0}, [4]),
            ({"integration_id": 9}, []),
            ({"status": "0"}, [6, 5, 4, 3, 2, 1]),
            ({"status": "1,2,3"}, []),
            ({"integration_id": "", "user_id": 3, "status": "", "cursor": ""}, [4]),
            ({"client_id": ["", "1"]}, [5, 2]),
            ({}, [6, 5, 4, 3, 2, 1]),
        ],
        ids=str,
    )
    def test_filters_are_met_together(
        self, api: ApiClient, tasks: list[StoredTask], parameters: Mapping[str, Any], found: list[int]
    ) -> None:
        assert listed(api, **parameters) == [tasks[place - 1].id for place in found]

    def test_pages_follow_each_other_without_gaps_whatever_comes_in_between(
        self, api: ApiClient, engine: Engine, tasks: list[StoredTask]
    ) -> None:
        seen: list[int] = []
        parameters: dict[str, Any] = {"limit": 2}
        for _ in range(3):
            body = api.get(ROWS, params=parameters).json()
            seen += [row["id"] for row in body["data"]]
            make_task(engine, {"a": ()})
            parameters["cursor"] = body.get("next_cursor")

        assert seen == [task.id for task in reversed(tasks)]
        assert parameters["cursor"] is None

    def test_a_page_that_holds_all_that_is_left_has_no_cursor(self, api: ApiClient, tasks: list[StoredTask]) -> None:
        body = api.get(ROWS, params={"limit": len(tasks)}).json()

        assert list(body) == ["data"]

    def test_a_page_of_large_arguments_ends_early(
        self, api: ApiClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks_table, "PAGE_BYTES", 1000)
        sizes = [300, 2000, 300, 300]
        for size in sizes:
            make_task(engine, {"a": ()}, arguments={"n": "x" * size})

        pages: list[list[int]] = []
        parameters: dict[str, Any] = {}
        while True:
            body = api.get(ROWS, params=parameters).json()
            pages.append([len(json.loads(row["argument"])["n"]) for row in body["data"]])
            if "next_cursor" not in body:
                break
            parameters["cursor"] = body["next_cursor"]

        assert pages == [[300, 300], [2000], [300]]

    @pytest.mark.parametrize(
        ("query", "field", "said"),
        [
            ("status=4", "status", "names 4: use 0 (waiting), 1 (in progress), 2 (done) or 3 (failed)"),
            ("integration_id=x", "integration_id", "must be whole numbers"),
            ("user_id=9999999999999999999", "user_id", "must be whole numbers between"),
            ("user_id=1%00", "user_id", "must be whole numbers"),
            ("limit=0", "limit", "must be at least 1"),
            ("limit=1001", "limit", "must be at most 1000"),
            ("cursor=!", "cursor", "is not a cursor"),
            ("cursor=" + "A" * 101, "cursor", "at most 100 characters"),
            ("cursor=YmVmb3JlOi0x", "cursor", "is not a cursor"),
            ("integration=1", "integration", "did you mean integration_id?"),
            ("user_id=" + ",".join(["1"] * 101), "user_id", "names 101 values, at most 100"),
        ],
        ids=lambda value: value[:20],
    )
    def test_a_wrong_parameter_is_named(self, api: ApiClient, query: str, field: str, said: str) -> None:
        error = refusal(api, query)

        assert said in error["message"]
        assert [one["field"] for one in error["sub_errors"]] == [field]


class TestPost:
    def test_the_task_is_the_definitions(self, api: ApiClient, template: int) -> None:
        row = post(api, template_id=template, argument='{"host": "h"}')

        detail = api.data(f"/instances/{row['id']}")
        assert (detail["name"], detail["taskType"], detail["taskDefinitionId"]) == ("prepare", "prepare", template)
        assert (detail["arguments"], detail["creator"]["name"]) == ({"host": "h"}, "admin")
        assert [one["key"] for one in detail["subtasks"]] == ["a"]

    def test_the_answer_says_where_the_row_is(self, api: ApiClient, template: int) -> None:
        response = api.post(ROWS, json={"template_id": template})

        assert response.headers["location"] == f"/api/v1/tasks/{response.json()['data'][0]['id']}"

    def test_columns_that_a_struct_leaves_at_zero_are_not_given(self, api: ApiClient, template: int) -> None:
        row = post(api, template_id=template, id=0, status=0, created_at=0, updated_at=None, argument="")

        assert row["id"] > 0
        assert row["created_at"] > 1_700_000_000_000
        assert row["argument"] == "{}"

    def test_the_same_key_leads_to_the_same_row(self, api: ApiClient, engine: Engine, template: int) -> None:
        def call(argument: str) -> Any:
            body = {"template_id": template, "argument": argument}
            return api.post(ROWS, json=body, headers={"Idempotency-Key": "k"})

        first, again, other = call('{"n": 1}'), call('{"n": 1}'), call('{"n": 2}')

        assert [one.status_code for one in (first, again, other)] == [201, 200, 409]
        assert first.json() == again.json()
        assert other.json()["error"]["code"] == 20006
        assert one(engine, "SELECT count(*) AS n FROM tasks")["n"] == 1

    @pytest.mark.parametrize(
        ("body", "field", "said"),
        [
            ({}, "/template_id", "is required"),
            ({"template_id": "1"}, "/template_id", "must be a whole number"),
            ({"template_id": True}, "/template_id", "must be a whole number"),
            ({"template_id": 2**63}, "/template_id", "must be at most"),
            ({"template_id": 1, "argument": {"n": 1}}, "/argument", "must be a text"),
            ({"template_id": 1, "argument": "x"}, "/argument", "is not JSON"),
            ({"template_id": 1, "argument": "[]"}, "/argument", "is not a JSON object"),
            ({"template_id": 1, "argument": '{"n": NaN}'}, "/argument", "holds NaN"),
            ({"template_id": 1, "status": 2}, "/status", "is set by the server"),
            ({"template_id": 1, "id": 7}, "/id", "is set by the server"),
            ({"template_id": 1, "templateId": 7}, "/templateId", "did you mean template_id?"),
        ],
        ids=str,
    )
    def test_a_wrong_column_is_named(
        self, api: ApiClient, engine: Engine, body: Mapping[str, Any], field: str, said: str
    ) -> None:
        error = post(api, 400, **body)

        assert said in error["message"]
        assert field in [one["field"] for one in error["sub_errors"]]
        assert one(engine, "SELECT count(*) AS n FROM tasks")["n"] == 0

    @pytest.mark.parametrize("argument", ['{"n": "\\u0000"}', '{"n": "\\ud800"}', '{"n":' + "[" * 70 + "]" * 70 + "}"])
    def test_an_argument_that_cannot_be_stored(self, api: ApiClient, template: int, argument: str) -> None:
        error = post(api, 400, template_id=template, argument=argument)

        assert error["target"].startswith("/argument/n")

    def test_an_argument_that_is_too_large(self, api: ApiClient, template: int) -> None:
        error = post(api, 413, template_id=template, argument=json.dumps({"n": "x" * 300_000}))

        assert (error["code"], error["target"]) == (10002, "/argument")

    def test_a_body_that_is_no_object(self, api: ApiClient) -> None:
        for body in ("", "[]", "1", '{"template_id": 1, "template_id": 2}'):
            assert api.post(ROWS, content=body).status_code == 400

    def test_a_definition_with_a_callback_alone(self, api: ApiClient, engine: Engine) -> None:
        document = '{"callback": {"url": "http://hooks.example.org"}}'
        execute(engine, f"INSERT INTO task_definitions (id, name, document) VALUES (77, 'queue', '{document}')")

        error = post(api, 400, template_id=77)

        assert (error["code"], error["target"]) == (20001, "/template_id")

    def test_a_viewer_may_not(self, api: ApiClient, template: int) -> None:
        response = api.acting(Role.TASK_VIEWER).post(ROWS, json={"template_id": template})

        assert (response.status_code, response.json()["error"]["code"]) == (403, 30014)


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", f"{ROWS}/999", 404),
            ("GET", f"{ROWS}/x", 400),
            ("GET", f"{ROWS}/1/nothing", 404),
            ("DELETE", f"{ROWS}/1", 405),
            ("PUT", ROWS, 405),
        ],
    )
    def test_every_error_has_the_same_form(self, api: ApiClient, method: str, path: str, status: int) -> None:
        response = api.request(method, path)

        assert response.status_code == status
        assert set(response.json()) == {"error"}
        assert {"code", "type", "message", "target", "sub_errors"} == set(response.json()["error"])

    def test_who_is_not_known_is_told_so_in_that_form(self, api: ApiClient) -> None:
        response = api.bearing(None).get(ROWS)

        assert (response.status_code, response.json()["error"]["code"]) == (401, 30001)
        assert "www-authenticate" in response.headers
