"""`onDuplicate` as clients of the API see it, and the limits of a submission."""

from collections.abc import Iterator
from random import Random
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.identity import SubtaskId, TaskId
from schema.kinds import KindInfo
from schema.settings import Settings
from schema.transitions.registrations import register_kinds
from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, execute, many
from tests.invariants import assert_invariants

SUBTASKS = [{"key": "a", "kind": "test.kind"}, {"key": "b", "kind": "test.kind", "upstreams": ["a"]}]
DOCUMENT = {"name": "n", "subtasks": SUBTASKS, "instanceId": 42}
SMALL = {"max_subtasks": 3, "max_edges": 4, "max_value_bytes": 100, "max_submission_bytes": 2_000}


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
    with running_api(engine, stack.redis_url) as api:
        yield api
    assert_invariants(engine)


def submit(api: ApiClient, mode: str | None = None, **members: Any) -> httpx.Response:
    given = {} if mode is None else {"onDuplicate": mode}
    return api.post("/instances", json={**DOCUMENT, **given, **members})


def run(engine: Engine, task: int) -> None:
    rows = many(engine, "SELECT key, id FROM subtask_specs WHERE task_id = :task ORDER BY id", task=task)
    StoredTask(engine, TaskId(task), {row["key"]: SubtaskId(row["id"]) for row in rows}).run("a", verdict="FAILED")


@pytest.mark.parametrize("mode", [None, "reject"])
def test_a_duplicate_is_refused_with_its_holder_as_the_target(api: ApiClient, mode: str | None) -> None:
    holder = submit(api).json()["data"]["id"]

    refused = submit(api, mode)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["target"]) == (409, 20005, str(holder))
    assert '"onDuplicate": "return", "queue" or "allow"' in error["message"]


def test_a_duplicate_that_takes_the_existing_one_is_answered_that(api: ApiClient) -> None:
    holder = submit(api, name="first").json()["data"]

    again = submit(api, "return", name="second")

    assert (again.status_code, again.json()["data"]) == (200, holder)
    assert again.headers["location"].endswith(f"/instances/{holder['id']}")


def test_a_duplicate_that_queues_says_for_whom_it_waits(api: ApiClient, engine: Engine) -> None:
    holder = submit(api).json()["data"]["id"]
    queued = [submit(api, "queue") for _ in range(2)]

    details = [one.json()["data"] for one in queued]
    assert [one.status_code for one in queued] == [201, 201]
    assert [one["state"] for one in details] == ["CREATED", "CREATED"]
    reasons = [one["waitReason"] for one in details[1]["subtasks"]]
    assert (reasons[0]["type"], reasons[0]["holder"]) == ("duplicate", holder)
    assert reasons[1]["type"] == "upstream"
    assert str(holder) in reasons[0]["detail"]

    run(engine, holder)

    [first, second] = [api.data(f"/instances/{one['id']}")["subtasks"][0]["waitReason"] for one in details]
    assert first["type"] == "no_worker"
    assert (second["type"], second["holder"]) == ("duplicate", details[0]["id"])


def test_one_that_waits_in_the_moment_in_which_nobody_holds_says_so(api: ApiClient, engine: Engine) -> None:
    holder = submit(api).json()["data"]["id"]
    queued = submit(api, "queue").json()["data"]["id"]
    execute(engine, "UPDATE tasks SET duplicate_key = NULL WHERE id = :id", id=holder)

    waiting = api.data(f"/instances/{queued}")["subtasks"][0]["waitReason"]

    assert waiting["type"] == "duplicate"
    assert "holder" not in waiting


def test_duplicates_that_are_allowed_hold_nothing_and_wait_for_nobody(api: ApiClient) -> None:
    statuses = [submit(api, mode).status_code for mode in ("allow", "reject", "allow", "reject")]

    assert statuses == [201, 201, 201, 409]


@pytest.mark.parametrize("other", [{"instanceId": 43}, {"extra": "x"}, {"instanceId": None, "onDuplicate": None}])
def test_another_instance_is_no_duplicate(api: ApiClient, other: dict[str, Any]) -> None:
    submit(api)

    assert submit(api, **other).status_code == 201


def test_several_of_one_instance_in_a_batch_queue_in_their_order(api: ApiClient, engine: Engine) -> None:
    names = [f"n{number}" for number in range(12)]
    batch = [{**DOCUMENT, "name": name, "onDuplicate": "queue"} for name in names]

    answered = api.post("/instances/batch", json=batch)

    assert (answered.status_code, [one["name"] for one in answered.json()["data"]]) == (201, names)
    line = many(engine, "SELECT name FROM tasks WHERE queued_key IS NOT NULL ORDER BY id")
    assert [row["name"] for row in line] == names[1:]


def test_a_duplicate_within_a_batch_is_named_by_its_place(api: ApiClient, engine: Engine) -> None:
    batch = [{**DOCUMENT, "instanceId": number} for number in (1, 2, 1)]

    refused = api.post("/instances/batch", json=batch)

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, 20005)
    assert refused.json()["error"]["message"].startswith("submission 2: task ")
    assert many(engine, "SELECT id FROM tasks") == []


def test_a_batch_of_what_is_there_already_is_answered_as_nothing_new(api: ApiClient) -> None:
    batch = [{**DOCUMENT, "onDuplicate": "return"}] * 3

    first, again = (api.post("/instances/batch", json=batch) for _ in range(2))

    assert (first.status_code, again.status_code) == (201, 200)
    assert len({one["id"] for one in [*first.json()["data"], *again.json()["data"]]}) == 1


def members(**given: Any) -> dict[str, Any]:
    return {"subtasks": [{"key": "a", "kind": "test.kind"}], **given}


def fan(count: int, key: str, *upstreams: str) -> dict[str, Any]:
    return {"key": key, "kind": "test.kind", "foreach": [0] * count, "upstreams": list(upstreams)}


LIMITS = {
    "subtasks as given": (members(subtasks=[{"key": f"s{n}", "kind": "test.kind"} for n in range(4)]), 400, "SUBTASKS"),
    "subtasks with foreach": (members(subtasks=[fan(4, "a")]), 400, "SUBTASKS"),
    "arguments of the task": (members(arguments={"x": "y" * 100}), 413, "VALUE_BYTES"),
    "arguments of a subtask": (
        members(subtasks=[{"key": "a", "kind": "test.kind", "arguments": {"x": "y" * 100}}]),
        413,
        "VALUE_BYTES",
    ),
    "the whole": (members(arguments={"x": "y" * 3_000}), 413, "SUBMISSION_BYTES"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_each_limit_is_told_with_its_setting(engine: Engine, stack: EmbeddedStack, limit: str) -> None:
    document, status, setting = LIMITS[limit]
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")

    with running_api(engine, stack.redis_url, **SMALL) as api:
        answered = api.post("/instances", json=document)

    assert answered.status_code == status, answered.text
    assert answered.json()["error"]["code"] == (10002 if status == 413 else 20001)
    assert f"(TASKSERVER_MAX_{setting})" in answered.json()["error"]["message"]
    assert f"max_{setting}".lower() in Settings.model_fields
    assert many(engine, "SELECT id FROM tasks") == []


def test_edges_beyond_the_limit_are_told_with_the_setting(engine: Engine, stack: EmbeddedStack) -> None:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")

    with running_api(engine, stack.redis_url, **{**SMALL, "max_subtasks": 6}) as api:
        fitting = api.post("/instances", json=members(subtasks=[fan(2, "a"), fan(2, "b", "a")]))
        refused = api.post("/instances", json=members(subtasks=[fan(3, "a"), fan(3, "b", "a")]))

    assert fitting.status_code == 201
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, 20001)
    assert "(TASKSERVER_MAX_EDGES)" in refused.json()["error"]["message"]


@pytest.mark.parametrize("alphabet", [range(0x20000, 0x30000), range(0x4E00, 0x9FFF), range(1, 32), range(97, 123)])
def test_an_instance_is_told_by_all_of_a_long_extra(api: ApiClient, alphabet: range) -> None:
    """What does not compress and takes many bytes would be more than a row of an index holds."""
    random = Random(7)
    extras = ["".join(map(chr, random.choices(alphabet, k=399))) + end for end in "ab"]
    documents = [{**DOCUMENT, "extra": extra, "onDuplicate": "reject"} for extra in extras]

    first, other, again = (api.post("/instances", json=one) for one in (*documents, documents[0]))

    assert [first.status_code, other.status_code, again.status_code] == [201, 201, 409]
    assert again.json()["error"]["target"] == str(first.json()["data"]["id"])


def test_a_longer_extra_is_refused(api: ApiClient) -> None:
    refused = api.post("/instances", json={**DOCUMENT, "extra": "x" * 9_000})

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["target"]) == (400, 10001, "/extra")
