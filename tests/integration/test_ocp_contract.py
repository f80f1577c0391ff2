"""The published task API, table by table: every member with its type, for a task in every state that it can be in.

The tables are those of the interface as published, in the spelling that its servers send (`parallelIdx`, `downstreams`,
`obTenantId`).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.transitions.logs import LogRow, write_logs
from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import PREFIX, ApiClient, running_api
from tests.factories import StoredTask, execute, make_task, many
from tests.operators import COURSES, dump, use

CLUSTER = {"id": 100, "name": "meta", "obClusterId": 1, "type": "PRIMARY"}
TENANT = {"id": 1, "name": "SYS", "obTenantId": 1, "mode": "MYSQL"}
TASK_STATUSES = {"RUNNING", "FAILED", "SUCCESSFUL"}
SUBTASK_STATUSES = {"PENDING", "READY", "RUNNING", "CANCELING", "FAILED", "SUCCESSFUL"}
OPERATIONS = {"EXECUTE", "RETRY", "ROLLBACK", "SKIP", "CANCEL"}
TYPES = {"MANUAL", "SYS_ONCE", "SCHEDULED", "SYS_SCHEDULED"}
SETTLED = {"FAILED", "SUCCESSFUL"}

Check = Callable[[Any], bool]


def number(bits: int) -> Check:
    """Return whether it is a number without a fraction; `true` and `30.0` are none."""
    return lambda value: type(value) is int and -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


LONG, INTEGER = number(64), number(32)


def string(value: Any) -> bool:
    return type(value) is str


def boolean(value: Any) -> bool:
    return type(value) is bool


def longs(value: Any) -> bool:
    return type(value) is list and all(map(LONG, value))


def moment(value: Any) -> bool:
    """Tell whether it is a time as published: with an offset, at most milliseconds, without zeros at the end."""
    written = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,2}[1-9])?[+-]\d\d:\d\d"
    return string(value) and bool(re.fullmatch(written, value)) and bool(datetime.fromisoformat(value))


def one_of(words: set[str]) -> Check:
    return lambda value: value in words


def members(table: Mapping[str, Check], *, optional: tuple[str, ...] = ()) -> Check:
    """Return the check of an object: each member there with its type, the optional ones there or absent, never null."""

    def check(value: Any) -> bool:
        assert type(value) is dict
        wrong = {name: value.get(name, "absent") for name, fits in table.items() if not present(name, fits, value)}
        assert not wrong, wrong
        return True

    def present(name: str, fits: Check, value: dict[str, Any]) -> bool:
        return fits(value[name]) if name in value else name in optional

    return check


def every(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


ENVELOPE: dict[str, Check] = {
    "successful": boolean,
    "timestamp": moment,
    "duration": INTEGER,
    "status": INTEGER,
    "traceId": string,
    "server": string,
}
PAGE = members({"totalElements": INTEGER, "totalPages": INTEGER, "number": INTEGER, "size": INTEGER})
HEAD: dict[str, Check] = {
    "id": LONG,
    "name": string,
    "cluster": members({"id": LONG, "name": string, "obClusterId": LONG, "type": one_of({"PRIMARY", "STANDBY"})}),
    "tenant": members({"id": LONG, "name": string, "obTenantId": LONG, "mode": one_of({"ORACLE", "MYSQL"})}),
    "creator": members({"id": LONG, "name": string}),
    "status": one_of(TASK_STATUSES),
    "startTime": moment,
    "finishTime": moment,
}
BASIC_SUBTASK: dict[str, Check] = {
    "id": LONG,
    "name": string,
    "description": string,
    "status": one_of(SUBTASK_STATUSES),
    "operation": one_of(OPERATIONS),
}
SUBTASK = members(
    {
        **BASIC_SUBTASK,
        "seriesId": LONG,
        "timeout": INTEGER,
        "executor": string,
        "runTime": INTEGER,
        "nodeType": string,
        "parallelIdx": INTEGER,
        "upstreams": longs,
        "downstreams": longs,
        "prohibitRollback": boolean,
        "createTime": moment,
        "startTime": moment,
        "finishTime": moment,
    },
    optional=("executor", "startTime", "finishTime"),
)
BASIC_TASK = members(
    {**HEAD, "subtasks": every(members(BASIC_SUBTASK))},
    optional=("startTime", "finishTime"),
)
WRAPPED_TASK = members(
    {
        **HEAD,
        "taskDefinitionId": LONG,
        "type": one_of(TYPES),
        "operation": one_of(OPERATIONS),
        "executor": string,
        "prohibitRollback": boolean,
        "subtasks": every(SUBTASK),
        "createTime": moment,
    },
    optional=("executor", "startTime", "finishTime"),
)
TASK_PAGE = members({"contents": every(BASIC_TASK), "page": PAGE})
LOG = members({"log": string})


def answered(response: httpx.Response, data: Check | None) -> Any:
    """Check a successful answer and its data; without a check there must be none."""
    body = response.json()
    assert response.status_code == 200, response.text
    assert (body["successful"], body["status"]) == (True, 200)
    assert members(ENVELOPE)(body)
    assert set(body) == {*ENVELOPE, *(() if data is None else ("data",))}
    assert "null" not in re.sub(r'"(\\.|[^"\\])*"', "", response.text)
    assert data is None or data(body["data"])
    return body.get("data")


def refused(response: httpx.Response, status: int, code: int) -> Any:
    """Check a refusal; return its error."""
    body = response.json()
    assert (response.status_code, body["status"], body["successful"]) == (status, status, False), response.text
    assert members({**ENVELOPE, "error": members({"code": INTEGER, "message": string})})(body)
    assert set(body) == {*ENVELOPE, "error"}
    assert body["error"]["code"] == code
    return body["error"]


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


def complete(task: StoredTask) -> StoredTask:
    """Give the task everything that a submission can, so that no member is absent for want of it."""
    execute(
        task.engine,
        "UPDATE tasks SET cluster = CAST(:cluster AS jsonb), tenant = CAST(:tenant AS jsonb), user_id = 7, host_id = 9"
        " WHERE id = :id",
        id=task.id,
        cluster=json.dumps(CLUSTER),
        tenant=json.dumps(TENANT),
    )
    execute(task.engine, "UPDATE subtask_specs SET timeout = 300 WHERE task_id = :id", id=task.id)
    return task


def failed(engine: Engine, **columns: Any) -> StoredTask:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"has_rollback": True}}, **columns)
    task.run("a", verdict="FAILED", error_message="no route")
    return complete(task)


def path(task: StoredTask, key: str | None = None, call: str = "") -> str:
    subtask = "" if key is None else f"/subtasks/{task.ids[key]}"
    return f"/instances/{task.id}{subtask}" + (f"/{call}" if call else "")


class TestTables:
    @pytest.mark.parametrize("course", COURSES)
    def test_a_task_in_any_state_has_the_published_members(self, api: ApiClient, engine: Engine, course: str) -> None:
        make, state, _ = COURSES[course]
        task = complete(make(engine))

        detail = answered(api.get(path(task)), WRAPPED_TASK)
        page = answered(api.get("/instances"), TASK_PAGE)

        [row] = page["contents"]
        shared = [name for name in HEAD if name in detail]
        assert (detail["id"], detail["state"]) == (task.id, state)
        assert [row[name] for name in shared] == [detail[name] for name in shared]
        assert [[one[name] for name in BASIC_SUBTASK] for one in row["subtasks"]] == [
            [one[name] for name in BASIC_SUBTASK] for one in detail["subtasks"]
        ]
        assert ("finishTime" in detail) == (detail["status"] in SETTLED)
        for key in task.ids:
            answered(api.get(path(task, key, "log")), LOG)
        for one in detail["subtasks"]:
            assert ("finishTime" in one) == (one["status"] in SETTLED), one
            assert ("startTime" in one) == ("executor" in one) == (one["attempt"] > 0), one

    def test_what_a_task_is_not_about_is_absent(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})

        detail = answered(api.get(path(task)), lambda data: type(data) is dict)

        assert not {"cluster", "tenant", "startTime", "finishTime"} & set(detail)
        assert detail["creator"] == {"id": 0, "name": "tester"}
        assert (detail["taskDefinitionId"], detail["type"], detail["operation"]) == (-1, "MANUAL", "EXECUTE")
        assert detail["subtasks"][0]["parallelIdx"] == -1

    def test_a_timeout_is_a_whole_number_of_seconds(self, api: ApiClient, engine: Engine) -> None:
        timeouts = {"whole": 300.0, "half": 0.5, "more": 1.5, "none": None}
        task = make_task(engine, dict.fromkeys(timeouts, ()), {key: {"timeout": one} for key, one in timeouts.items()})

        shown = [one["timeout"] for one in api.data(path(task))["subtasks"]]

        assert shown == [300, 1, 2, 0]
        assert [type(one) for one in shown] == [int] * 4
        assert [api.data(path(task, key))["timeout"] for key in timeouts] == shown

    def test_the_subtask_that_a_retry_answers_has_a_timeout_where_none_is_set(
        self, api: ApiClient, engine: Engine
    ) -> None:
        task = failed(engine)
        execute(task.engine, "UPDATE subtask_specs SET timeout = NULL WHERE task_id = :id", id=task.id)

        assert answered(api.post(path(task, "a", "retry")), SUBTASK)["timeout"] == 0

    @pytest.mark.parametrize(("submitted", "shown"), [(7, 7), (0, "the principal's"), (None, "the principal's")])
    def test_the_creator_is_the_submitted_user_or_else_the_principal(
        self, api: ApiClient, engine: Engine, submitted: int | None, shown: int | str
    ) -> None:
        api.post("/principals", json={"name": "ops", "role": "TASK_MANAGER"})
        [principal] = many(engine, "SELECT id FROM principals WHERE name = 'ops'")
        task = make_task(engine, {"a": ()}, creator="ops", user_id=submitted)

        detail, [row] = api.data(path(task)), api.data("/instances")["contents"]

        assert detail["creator"] == {"id": principal["id"] if isinstance(shown, str) else shown, "name": "ops"}
        assert row["creator"] == detail["creator"]

    def test_a_creator_whose_principal_was_removed_keeps_its_id(self, api: ApiClient, engine: Engine) -> None:
        api.post("/principals", json={"name": "gone", "role": "TASK_MANAGER"})
        task = make_task(engine, {"a": ()}, creator="gone")
        before = api.data(path(task))["creator"]
        api.request("DELETE", "/principals/gone")

        assert before["id"] > 0
        assert api.data(path(task))["creator"] == before

    def test_series_and_ids_ascend_from_the_roots_on(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"d": (), "c": ("d",), "b": ("d",), "a": ("b", "c")})

        subtasks = api.data(path(task))["subtasks"]

        assert [one["seriesId"] for one in subtasks] == [0, 1, 2, 3]
        assert [one["id"] for one in subtasks] == sorted(one["id"] for one in subtasks)
        for one in subtasks:
            assert all(upstream < one["id"] for upstream in one["upstreams"])
            assert all(one["id"] in other["upstreams"] for other in subtasks if other["id"] in one["downstreams"])

    def test_the_members_of_a_detail_do_not_hide_what_a_client_calls_its_own(
        self, api: ApiClient, engine: Engine
    ) -> None:
        detail = api.data(path(failed(engine)))

        assert not set(detail) & {"url", "auth", "get", "retry", "wait_done"}


class TestRunTime:
    def test_it_is_one_before_and_at_the_first_attempt_and_grows_with_each(
        self, api: ApiClient, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})

        def shown() -> tuple[int, str]:
            [subtask] = api.data(path(task))["subtasks"]
            return subtask["runTime"], subtask["status"]

        seen = [shown()]
        for verdict in ("RETRY", "FAILED"):
            claimed = task.begin("a")
            seen.append(shown())
            task.record(claimed, verdict)  # type: ignore[arg-type]
        seen.append(shown())
        use(task, "retry")
        task.begin("a")

        assert seen == [(1, "PENDING"), (1, "RUNNING"), (2, "RUNNING"), (2, "FAILED")]
        assert shown() == (3, "RUNNING")


class TestRolledBack:
    def test_it_is_successful_by_rollback_and_its_subtasks_are_pending(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(
            engine,
            {"a": (), "b": ("a",), "c": ("b",), "beside": ()},
            {"a": {"has_rollback": True}, "b": {"has_rollback": True}},
        )
        task.run("a")
        task.run("b", verdict="FAILED")
        rolled = answered(api.post(path(task, call="rollback")), lambda data: type(data) is dict)
        assert (rolled["status"], rolled["operation"]) == ("RUNNING", "ROLLBACK")
        task.run("b")
        task.run("a")

        detail = api.data(path(complete(task)))

        assert (detail["status"], detail["operation"], detail["rolledBack"]) == ("SUCCESSFUL", "ROLLBACK", True)
        assert [(one["key"], one["status"], one["operation"]) for one in detail["subtasks"]] == [
            ("a", "PENDING", "ROLLBACK"),
            ("b", "PENDING", "ROLLBACK"),
            ("c", "PENDING", "EXECUTE"),
            ("beside", "PENDING", "EXECUTE"),
        ]


class TestCalls:
    """Those that act, as clients send them: without a body, with and without a content type."""

    HEADERS = ({}, {"Content-Type": "application/json"}, {"Content-Type": "application/x-www-form-urlencoded"})

    @pytest.mark.parametrize("verb", ["retry", "rollback"])
    def test_a_tasks_verb_answers_its_detail(self, api: ApiClient, engine: Engine, verb: str) -> None:
        for headers in self.HEADERS:
            task = failed(engine)

            detail = answered(api.post(path(task, call=verb), headers=headers), WRAPPED_TASK)

            assert (detail["status"], detail["operation"]) == ("RUNNING", verb.upper())

    @pytest.mark.parametrize("headers", HEADERS)
    def test_a_subtasks_retry_answers_it_and_its_skip_and_cancel_answer_nothing(
        self, api: ApiClient, engine: Engine, headers: dict[str, str]
    ) -> None:
        retried, skipped, running = failed(engine), failed(engine), complete(make_task(engine, {"a": ()}))
        running.begin("a")

        subtask = answered(api.post(path(retried, "a", "retry"), headers=headers), SUBTASK)
        answered(api.post(path(skipped, "a", "skip"), headers=headers), None)
        answered(api.post(path(running, "a", "cancel"), headers=headers), None)

        assert (subtask["id"], subtask["operation"]) == (retried.ids["a"], "RETRY")
        states = [(one.row("a")["state"], one.row("a")["operation"]) for one in (skipped, running)]
        assert states == [("SUCCESSFUL", "SKIP"), ("CANCELING", "EXECUTE")]

    @pytest.mark.parametrize("verb", ["retry", "skip", "cancel"])
    def test_a_subtask_of_another_task_is_not_found_and_nothing_happens(
        self, api: ApiClient, engine: Engine, verb: str
    ) -> None:
        task, other = failed(engine), failed(engine)
        before = dump(engine)

        mixed = f"/instances/{task.id}/subtasks/{other.ids['a']}"

        refused(api.post(f"{mixed}/{verb}"), 404, 20000)
        refused(api.get(f"{mixed}/log"), 404, 20000)
        refused(api.get(mixed), 404, 20000)
        assert dump(engine) == before

    @pytest.mark.parametrize("verb", ["retry", "skip", "cancel"])
    def test_a_subtask_that_is_not_there_is_not_found_whatever_the_tasks_state(
        self, api: ApiClient, engine: Engine, verb: str
    ) -> None:
        other = failed(engine)

        for make, state, _ in COURSES.values():
            task = make(engine)
            for subtask in (other.ids["a"], 2**63 - 1):
                error = refused(api.post(f"/instances/{task.id}/subtasks/{subtask}/{verb}"), 404, 20000)
                assert error["target"] == str(subtask), state

    def test_what_does_not_fit_the_state_is_20003_and_says_which_it_is(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)})
        task.begin("a")

        for key, verb in ((None, "retry"), (None, "rollback"), ("a", "retry"), ("a", "skip"), ("b", "cancel")):
            error = refused(api.post(path(task, key, verb)), 400, 20003)
            assert ("PENDING" if key == "b" else "RUNNING") in error["message"]

    def test_retry_of_a_rollback_that_failed_is_refused_and_rollback_goes_on(
        self, api: ApiClient, engine: Engine
    ) -> None:
        task = failed(engine)
        api.post(path(task, call="rollback"))
        task.run("a", verdict="FAILED")

        refused(api.post(path(task, call="retry")), 400, 20003)
        refused(api.post(path(task, "a", "retry")), 400, 20003)

        assert answered(api.post(path(task, call="rollback")), WRAPPED_TASK)["status"] == "RUNNING"

    def test_a_prohibited_rollback_is_20004(self, api: ApiClient, engine: Engine) -> None:
        task = failed(engine, prohibit_rollback=True)

        assert api.data(path(task))["prohibitRollback"] is True
        refused(api.post(path(task, call="rollback")), 400, 20004)


class TestAddresses:
    SUBMIT = ("POST", "/instances")
    CALLS = (
        ("GET", "/instances"),
        ("GET", "/instances/{task}"),
        ("POST", "/instances/{task}/rollback"),
        ("POST", "/instances/{task}/retry"),
        ("POST", "/instances/{task}/subtasks/{subtask}/cancel"),
        ("POST", "/instances/{task}/subtasks/{subtask}/retry"),
        ("POST", "/instances/{task}/subtasks/{subtask}/skip"),
        ("GET", "/instances/{task}/subtasks/{subtask}/log"),
    )

    METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD")
    WRONG = ("abc", "1.0", "1e3", "-1", "0", "9223372036854775808", "%00", "%20", "1_0", "%D9%A1", "+1")

    def test_any_other_method_is_405_in_the_envelope_and_changes_nothing(self, api: ApiClient, engine: Engine) -> None:
        task = failed(engine)
        before = dump(engine)

        for method, template in self.CALLS:
            for other in (one for one in self.METHODS if (one, template) not in {(method, template), self.SUBMIT}):
                response = api.request(other, template.format(task=task.id, subtask=task.ids["a"]))
                if other != "HEAD":
                    refused(response, 405, 10005)
                assert response.status_code == 405, (other, template)
                assert method in response.headers["allow"].split(", ")
        assert dump(engine) == before

    def test_a_method_that_is_not_there_is_405_at_every_address(self, api: ApiClient, engine: Engine) -> None:
        failed(engine)
        before, described = dump(engine), api.get("//openapi.json").json()["paths"]
        calls = {path: {one.upper() for one in there} for path, there in described.items() if path.startswith(PREFIX)}

        for address in (re.sub(r"\{\w+\}", "1", path) for path in calls):
            patterns = {re.sub(r"\{\w+\}", "[^/]+", path): there for path, there in calls.items()}
            there = {one for pattern, methods in patterns.items() if re.fullmatch(pattern, address) for one in methods}
            for method in set(self.METHODS) - there - {"HEAD"}:
                response = api.request(method, "/" + address)
                refused(response, 405, 10005)
                assert response.headers["allow"] == ", ".join(sorted(there)), address
        assert len(calls) > 20
        assert dump(engine) == before

    @pytest.mark.parametrize("wrong", WRONG)
    def test_an_id_that_is_no_number_is_400_and_named(self, api: ApiClient, wrong: str) -> None:
        for method, template in self.CALLS[1:]:
            error = refused(api.request(method, template.format(task=wrong, subtask=1)), 400, 10001)
            assert (error["target"], "parameter id" in error["message"]) == ("id", True), template

        for method, template in self.CALLS[4:]:
            error = refused(api.request(method, template.format(task=1, subtask=wrong)), 400, 10001)
            assert (error["target"], "parameter sid" in error["message"]) == ("sid", True), template

    def test_an_id_that_nothing_has_is_404(self, api: ApiClient) -> None:
        for method, template in self.CALLS[1:]:
            refused(api.request(method, template.format(task=2**63 - 1, subtask=2**63 - 1)), 404, 20000)

    def test_an_address_where_nothing_is_is_404_in_the_envelope(self, api: ApiClient) -> None:
        for address in ("/instances/", "/instances/1/log", "/instances/1/subtasks/1/nothing", "//api/v2/tasks", "//"):
            for method in ("GET", "POST", "DELETE"):
                refused(api.request(method, address), 404, 20000)

    def test_the_callers_trace_comes_back(self, api: ApiClient) -> None:
        for address in ("/instances", "/instances/abc", "/instances/1", "/nothing"):
            given = api.get(address, headers={"x-trace-id": "5443013f6a1c4cfd"}).json()["traceId"]
            own = api.get(address).json()["traceId"]

            assert given == "5443013f6a1c4cfd"
            assert re.fullmatch("[0-9a-f]{16}", own)


class TestList:
    @pytest.fixture
    def tasks(self, engine: Engine) -> dict[str, StoredTask]:
        tasks = {
            "running": make_task(engine, {"a": ()}, name="Prepare host 1", type="SYS_ONCE"),
            "failed": failed(engine, name="Prepare host 2"),
            "done": make_task(engine, {"a": ()}, name="Other"),
        }
        tasks["done"].run("a")
        return tasks

    def names(self, api: ApiClient, query: str) -> list[str]:
        return [one["name"] for one in api.data(f"/instances?{query}")["contents"]]

    @pytest.mark.usefixtures("tasks")
    def test_statuses_are_taken_as_every_client_writes_them(self, api: ApiClient) -> None:
        for query in (
            "status=RUNNING,FAILED",
            "status=RUNNING%2CFAILED",
            "status=RUNNING&status=FAILED",
            "status=" + quote('["RUNNING", "FAILED"]'),
            "status=" + quote('["RUNNING","FAILED"]'),
            "status=running,failed",
        ):
            assert self.names(api, query) == ["Prepare host 2", "Prepare host 1"], query

    @pytest.mark.usefixtures("tasks")
    def test_every_published_filter_finds_what_it_names(self, api: ApiClient) -> None:
        for query, found in (
            ("name=prepare%20HOST", ["Prepare host 2", "Prepare host 1"]),
            ("type=SYS_ONCE", ["Prepare host 1"]),
            ("type=SYS_ONECE", ["Prepare host 1"]),
            ("clusterName=ET", ["Prepare host 2"]),
            ("cluterName=et", ["Prepare host 2"]),
            ("clusterId=100", ["Prepare host 2"]),
            ("tenantName=SYS&clusterId=100", ["Prepare host 2"]),
            ("tenantName=SYS", ["Prepare host 2"]),
            ("tenantName=SYS&clusterId=101", []),
            ("tenantId=1", ["Prepare host 2"]),
            ("hostId=9", ["Prepare host 2"]),
            ("hostId=8", []),
        ):
            assert self.names(api, query) == found, query

    @pytest.mark.usefixtures("tasks")
    def test_a_filter_that_is_left_empty_filters_nothing(self, api: ApiClient) -> None:
        filters = ("name", "status", "type", "clusterName", "clusterId", "tenantName", "tenantId", "hostId", "sort")

        for name in (*filters, "page", "size"):
            assert len(self.names(api, f"{name}=")) == 3, name
        assert len(self.names(api, "&".join(f"{name}=" for name in filters))) == 3

    @pytest.mark.usefixtures("tasks")
    def test_the_newest_come_first_ten_on_a_page_that_counts_from_one(self, api: ApiClient, engine: Engine) -> None:
        for place in range(9):
            make_task(engine, {"a": ()}, name=f"more {place}")

        first, second = api.data("/instances"), api.data("/instances?page=2")

        assert [len(one["contents"]) for one in (first, second)] == [10, 2]
        assert first["page"] == {"totalElements": 12, "totalPages": 2, "number": 1, "size": 10}
        ids = [one["id"] for one in first["contents"] + second["contents"]]
        assert ids == sorted(ids, reverse=True)
        assert api.data("/instances?page=3") == {"contents": [], "page": {**first["page"], "number": 3}}

    @pytest.mark.usefixtures("tasks")
    def test_the_order_is_asked_for_as_published(self, api: ApiClient) -> None:
        assert self.names(api, "sort=id,asc") == ["Prepare host 1", "Prepare host 2", "Other"]
        assert self.names(api, "sort=id") == ["Prepare host 1", "Prepare host 2", "Other"]
        assert self.names(api, "sort=name,desc") == ["Prepare host 2", "Prepare host 1", "Other"]

    def test_several_properties_may_stand_before_one_direction(self, api: ApiClient, engine: Engine) -> None:
        for name, priority in (("b", 5), ("a", 1), ("a", 9)):
            make_task(engine, {"x": ()}, name=name, priority=priority)

        def order(sort: str) -> list[tuple[str, int]]:
            found = [api.data(f"/instances/{one['id']}") for one in api.data(f"/instances?sort={sort}")["contents"]]
            return [(one["name"], one["priority"]) for one in found]

        assert order("name,priority,asc") == order("name,priority") == [("a", 1), ("a", 9), ("b", 5)]
        assert order("name,priority,DESC") == [("b", 5), ("a", 9), ("a", 1)]
        assert order("name,priority,desc&sort=id") == order("name,desc&sort=priority,desc&sort=id")

    def test_what_cannot_be_is_400_and_named(self, api: ApiClient) -> None:
        paging = (
            "size=2001",
            "size=0",
            "size=1.0",
            "page=0",
            "page=x",
            "sort=context,asc",
            "sort=id,up",
            "sort=id,context,asc",
            "sort=desc",
        )
        for query in (*paging, "type=ODD", "clusterId=x", "clusterId=1_0", "status=ODD", "status=[1]"):
            error = refused(api.get(f"/instances?{query}"), 400, 10001)

            assert error["target"] == query.partition("=")[0]

    def test_the_largest_page_is_taken(self, api: ApiClient) -> None:
        assert api.data("/instances?size=2000")["page"]["size"] == 2000


@dataclass(frozen=True)
class Section:
    """One attempt of a log, as the published console shows it."""

    operation: str
    time: str
    text: str


def sections(log: str) -> list[Section]:
    """Split a log as the published console does: at its separators, texts without the empty lines around them."""
    parts = [part for part in re.split(r"(#{12}\{\S*\}\{\S*\}#{12})", log) if part]
    heads = [re.fullmatch(r"#{12}\{(\S*)\}\{(\S*)\}#{12}", part) for part in parts[::2]]
    return [
        Section(head[1], head[2], text.strip("\n"))
        for head, text in zip(heads, parts[1::2], strict=True)
        if head is not None
    ]


class TestLog:
    def test_the_published_console_finds_each_attempt(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"has_rollback": True, "max_attempts": 2}})
        for text, verdict in (("one\ntwo\n", "RETRY"), ("no end of line", "FAILED")):
            self.attempt(task, text, verdict)
        use(task, "retry")
        self.attempt(task, "", "FAILED")
        use(task, "rollback")
        self.attempt(task, "undone 任务\n", "SUCCESSFUL")

        log = answered(api.get(path(task, "a", "log")), LOG)["log"]

        found = sections(log)
        assert [(one.operation, one.text) for one in found] == [
            ("EXECUTE", "one\ntwo"),
            ("EXECUTE", "no end of line"),
            ("RETRY", ""),
            ("ROLLBACK", "undone 任务"),
        ]
        times = [datetime.fromisoformat(one.time) for one in found]
        assert all(moment(one.time) for one in found)
        assert times == sorted(times)
        assert times[-1] - times[0] < timedelta(minutes=10)

    @staticmethod
    def attempt(task: StoredTask, text: str, verdict: Any) -> None:
        claimed = task.begin("a")
        if text:
            with transaction(task.engine) as connection:
                write_logs(connection, [LogRow(task.id, claimed[0].id, claimed[0].claim, 0, text)])
        task.record(claimed, verdict)

    def test_what_has_not_begun_has_an_empty_log(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})

        assert answered(api.get(path(task, "a", "log")), LOG)["log"] == ""
