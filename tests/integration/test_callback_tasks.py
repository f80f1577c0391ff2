"""Callback tasks in the database: what their rows hold, which are refused, and what stays of the receivers' answers."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.errors import DuplicateInstance, InvalidArgument, InvalidGraph, TooLarge
from schema.identity import TaskId
from schema.inputs import load_task
from schema.limits import Limits
from schema.transitions.definitions import NewDefinition, StoredVersion, put_definition
from taskserver.callback_tasks import CallbackTask, element_of, prepare_callback_tasks
from taskserver.embedded.stack import EmbeddedStack
from taskserver.new_rows import Submitter
from taskserver.submission import Prepared, Stored
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, make_task, many, one, together

CALLBACK = {"url": "http://cmdb.example.com", "path": "/sync"}
SUBMITTER = Submitter("sync", "0", trace_id="trace-1", traceparent="00-aa-bb-01")
ELEMENTS = ({"id": 1}, [2, None], "three", {"$arg": "/nothing", "inner": {"$literal": 4}}, None)


def put(engine: Engine, name: str = "set_sync", *, account: str = "0", **members: Any) -> StoredVersion:
    with transaction(engine) as connection:
        document = {"callback": CALLBACK, **members}
        return put_definition(connection, NewDefinition(account, name, document, "tester"))


def task(*data: object, instance: int = 7, task_type: str = "set_sync", extra: str = "") -> CallbackTask:
    return CallbackTask(task_type, instance, extra, data or ELEMENTS)


def prepare(
    *tasks: CallbackTask, submitter: Submitter = SUBMITTER, limits: Limits | None = None, **header: str
) -> Prepared:
    return prepare_callback_tasks(tasks, submitter, header=header, limits=limits or Limits())


def create(engine: Engine, *tasks: CallbackTask, submitter: Submitter = SUBMITTER, **header: str) -> list[Stored]:
    return prepare(*tasks, submitter=submitter, **header).store(engine)


def row(engine: Engine, stored: Stored) -> Any:
    return one(engine, "SELECT * FROM tasks WHERE id = :task", task=stored.task)


def subtasks(engine: Engine, stored: Stored) -> list[Any]:
    return many(engine, "SELECT * FROM subtask_specs WHERE task_id = :task ORDER BY series_id", task=stored.task)


def count(engine: Engine) -> int:
    return int(one(engine, "SELECT count(*) AS n FROM tasks")["n"])


class TestRows:
    def test_each_element_is_a_subtask_after_the_one_before_it(self, engine: Engine) -> None:
        put(engine, queue="sync")

        (stored,) = create(engine, task())

        specs = subtasks(engine, stored)
        edges = many(engine, "SELECT * FROM subtask_edges WHERE task_id = :task ORDER BY 1", task=stored.task)
        ids = [one["id"] for one in specs]
        assert [one["key"] for one in specs] == ["data[0]", "data[1]", "data[2]", "data[3]", "data[4]"]
        assert [(one["kind"], one["queue"]) for one in specs] == [("callback.element", "sync")] * 5
        assert [(one["upstream_id"], one["downstream_id"]) for one in edges] == list(pairwise(ids))
        assert tuple(element_of(one["arguments"]) for one in specs) == ELEMENTS

    def test_the_task_has_its_queue_its_instance_and_the_version_that_it_was_made_of(self, engine: Engine) -> None:
        version = put(engine)

        (stored,) = create(engine, task(extra="x"))

        found = row(engine, stored)
        assert (found["task_type"], found["name"], found["definition_id"]) == ("set_sync", "set_sync", version.id)
        assert (found["instance_id"], found["extra"], found["creator"]) == (7, "x", "sync")
        assert (found["trace_id"], found["traceparent"], found["subtask_count"]) == ("trace-1", "00-aa-bb-01", 5)

    def test_the_header_is_kept_without_credentials_and_its_request_id_is_the_trace(self, engine: Engine) -> None:
        put(engine)

        (stored,) = create(engine, task(), BK_User="admin", Cc_Request_Id="cc7", Authorization="Bearer t", cookie="c=1")

        found = row(engine, stored)
        assert found["header"] == {
            "BK_User": "admin",
            "Cc_Request_Id": "cc7",
            "X-Bkcmdb-Supplier-Account": "0",
            "HTTP_BLUEKING_SUPPLIER_ID": "0",
        }
        assert found["trace_id"] == "cc7"

    @pytest.mark.parametrize(
        ("callback", "timeout", "attempts"),
        [
            ({}, 30.0, 1),
            ({"retry": 0, "timeoutSeconds": 120}, 120.0, 1),
            ({"retry": 1}, 30.0, 1),
            ({"retry": 3}, 30.0, 3),
        ],
    )
    def test_retry_counts_all_attempts_and_the_timeout_is_that_of_one(
        self, engine: Engine, callback: dict[str, Any], timeout: float, attempts: int
    ) -> None:
        put(engine, callback={**CALLBACK, **callback})

        (stored,) = create(engine, task(1))

        (spec,) = subtasks(engine, stored)
        assert (spec["timeout"], spec["max_attempts"]) == (timeout, attempts)

    def test_a_worker_reads_header_and_callback_of_the_version_with_the_task(self, engine: Engine) -> None:
        put(engine)
        (stored,) = create(engine, task(), Cc_Request_Id="cc7")
        put(engine, callback={**CALLBACK, "path": "/elsewhere"})

        with engine.connect() as connection:
            info = load_task(connection, stored.task)

        assert (info.callback, info.header["Cc_Request_Id"]) == (CALLBACK, "cc7")

    def test_other_tasks_have_neither(self, engine: Engine, plain_task: StoredTask) -> None:
        with engine.connect() as connection:
            info = load_task(connection, TaskId(plain_task.id))

        assert (info.callback, info.header) == (None, {})


@pytest.fixture
def plain_task(engine: Engine) -> StoredTask:
    return make_task(engine, {"a": ()})


class TestRefusals:
    def test_no_tasks_store_nothing(self, engine: Engine) -> None:
        assert create(engine) == []
        assert count(engine) == 0

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            (CallbackTask("set_sync", 7, "", ()), "/data"),
            (CallbackTask("set_sync", 7, "", (1, "a\x00b")), "/data/1"),
            (CallbackTask("set_sync", 7, "", ({"a": [float("nan")]},)), "/data/0/a/0"),
            (CallbackTask("  ", 7, "", (1,)), "/task_type"),
            (CallbackTask("a\x00", 7, "", (1,)), "/task_type"),
            (CallbackTask("set_sync", 2**63, "", (1,)), "/bk_inst_id"),
            (CallbackTask("set_sync", 7, "x" * 401, (1,)), "/extra"),
            (CallbackTask("set_sync", 7, "", (1, 2, 3, 4)), "/data"),
        ],
    )
    def test_what_is_wrong_is_named_before_anything_is_stored(self, wrong: CallbackTask, field: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            prepare(wrong, limits=Limits(subtasks=3))
        with pytest.raises(InvalidArgument) as of_several:
            prepare(task(1), wrong, limits=Limits(subtasks=3))

        assert [one.field for one in caught.value.sub_errors] == [field]
        assert [one.field for one in of_several.value.sub_errors] == [f"/1{field}"]

    def test_elements_that_nest_too_deep_are_named(self) -> None:
        deep: Any = 1
        for _ in range(100_000):
            deep = [deep]

        with pytest.raises(InvalidArgument, match="deeper"):
            prepare(task(deep))

    def test_elements_that_are_too_large_are_refused_each_and_together(self) -> None:
        with pytest.raises(TooLarge, match="/data/1"):
            prepare(task("x", "y" * 200), limits=Limits(stored_bytes=100))
        with pytest.raises(TooLarge, match="together"):
            prepare(task(*["x" * 80] * 5), limits=Limits(stored_bytes=100, expanded_bytes=300))

    def test_too_many_tasks_are_refused(self) -> None:
        with pytest.raises(InvalidArgument, match="at most 1000"):
            prepare(*[task(1)] * 1001)

    def test_a_type_that_is_no_queue_says_what_is_missing(self, engine: Engine) -> None:
        put(engine, "graph", callback=None, subtasks=[{"key": "a", "kind": "builtin.noop"}])
        put(engine, "foreign", account="1")

        with pytest.raises(InvalidArgument, match="'graph' has no callback"):
            create(engine, task(task_type="graph"))
        for name in ("foreign", "set_sink"):
            with pytest.raises(InvalidGraph, match=f"'{name}' does not exist"):
                create(engine, task(task_type=name))
        assert count(engine) == 0

    def test_one_wrong_task_keeps_all_from_being_stored(self, engine: Engine) -> None:
        put(engine)

        with pytest.raises(InvalidGraph, match="task 1: definition 'gone'"):
            create(engine, task(1), task(1, task_type="gone", instance=1))

        assert count(engine) == 0


class TestDuplicates:
    def test_a_second_task_of_an_instance_is_refused_and_names_the_first(self, engine: Engine) -> None:
        put(engine)
        (first,) = create(engine, task(1))

        with pytest.raises(DuplicateInstance) as caught:
            create(engine, task(2))

        assert caught.value.target == str(first.task)

    def test_of_two_of_an_instance_in_one_call_neither_is_stored(self, engine: Engine) -> None:
        put(engine)

        with pytest.raises(DuplicateInstance, match="task 1: "):
            create(engine, task(1), task(2))

        assert count(engine) == 0

    def test_extra_tells_them_apart(self, engine: Engine) -> None:
        put(engine)

        assert len(create(engine, task(1), task(1, extra="host"))) == 2

    @pytest.mark.parametrize(("policy", "tasks"), [("return", 1), ("queue", 2), ("allow", 2)])
    def test_the_definition_says_what_becomes_of_a_second(self, engine: Engine, policy: str, tasks: int) -> None:
        put(engine, onDuplicate=policy)

        first, second = create(engine, task(1), task(2))

        assert count(engine) == tasks
        assert (first.task == second.task, second.is_new) == (policy == "return", policy != "return")

    def test_of_many_at_the_same_time_one_is_stored(self, engine: Engine) -> None:
        put(engine)

        def attempt(number: int) -> bool:
            try:
                create(engine, task(number, instance=1), task(number, instance=2))
            except DuplicateInstance:
                return False
            return True

        assert together(8, attempt).count(True) == 1
        assert count(engine) == 2


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


class TestAnswers:
    def test_what_a_receiver_refused_with_is_kept_on_the_attempt_and_shown(
        self, engine: Engine, api: ApiClient
    ) -> None:
        put(engine)
        (stored,) = create(engine, task(1, 2))
        said = {"result": False, "bk_error_code": 1199006, "data": {"why": "gone"}}
        made = StoredTask(engine, stored.task, {row["key"]: row["id"] for row in subtasks(engine, stored)})

        made.run("data[0]", verdict="FAILED", result=said, error_type="refused", error_message="no")

        detail = api.data(f"/instances/{stored.task}/subtasks/{made.ids['data[0]']}")
        assert [(attempt["status"], attempt["result"]) for attempt in detail["attempts"]] == [("FAILED", said)]
        assert "result" not in detail
        assert made.states() == {"data[0]": "FAILED", "data[1]": "PENDING"}
        assert one(engine, "SELECT state FROM tasks WHERE id = :task", task=stored.task)["state"] == "FAILED"

    def test_what_the_definition_hides_is_hidden_in_elements_and_answers(self, engine: Engine, api: ApiClient) -> None:
        put(engine, redact=["password"])
        (stored,) = create(
            engine, task({"host": "h", "login": {"password": "hunter2"}}, {"$x": {"password": "s3cret"}})
        )
        made = StoredTask(engine, stored.task, {row["key"]: row["id"] for row in subtasks(engine, stored)})

        made.run("data[0]", result={"result": True, "data": {"seen": "hunter2", "password": "other"}})
        made.run("data[1]", verdict="FAILED", result={"result": False, "data": ["s3cret"]})

        answers = [
            api.get(f"/instances/{stored.task}{rest}").text
            for rest in ("", *(f"/subtasks/{made.ids[key]}" for key in made.ids))
        ]
        shown = json.loads(answers[1])["data"]
        assert shown["arguments"] == {"data": {"host": "h", "login": {"password": "******"}}}
        assert shown["result"] == {"result": True, "data": {"seen": "******", "password": "******"}}
        assert [secret for secret in ("hunter2", "s3cret", "other") for one in answers if f'"{secret}"' in one] == []
