"""The `Idempotency-Key` of submissions: made again, a call changes nothing and answers what has become of the first."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.errors import IdempotencyKeyReused
from schema.identity import TaskId
from schema.kinds import KindInfo
from schema.transitions import idempotency
from schema.transitions.idempotency import IdempotentCall, claim_key, note_answer
from schema.transitions.registrations import register_kinds
from taskserver import submission
from taskserver.dispatcher.upkeep import Upkeep
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, execute, many, one, together

DOCUMENT = {"name": "n", "subtasks": [{"key": "a", "kind": "test.kind"}]}
CALL = IdempotentCall("0", "k", "submit", b"hash")


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
    with running_api(engine, stack.redis_url) as api:
        yield api


def submit(api: ApiClient, document: object = DOCUMENT, *, key: str = "k", path: str = "/instances") -> Any:
    return api.post(path, json=document, headers={"Idempotency-Key": key})


def tasks(engine: Engine) -> list[int]:
    return [row["id"] for row in many(engine, "SELECT id FROM tasks ORDER BY id")]


def keys(engine: Engine) -> list[str]:
    return [row["key"] for row in many(engine, "SELECT key FROM idempotency_keys ORDER BY key")]


def age(engine: Engine, interval: str) -> None:
    execute(engine, f"UPDATE idempotency_keys SET created_at = created_at - interval '{interval}'")


def test_the_same_key_and_body_answer_the_same_task_as_it_is_by_then(api: ApiClient, engine: Engine) -> None:
    first = submit(api)
    [task] = tasks(engine)
    [subtask] = many(engine, "SELECT id FROM subtasks")
    StoredTask(engine, TaskId(task), {"a": subtask["id"]}).run("a")

    again = submit(api, dict(reversed(DOCUMENT.items())))

    assert (first.status_code, again.status_code) == (201, 200)
    assert (first.json()["data"]["state"], again.json()["data"]["state"]) == ("CREATED", "SUCCESSFUL")
    assert again.json()["data"]["id"] == first.json()["data"]["id"] == task
    assert again.headers["location"] == first.headers["location"]
    assert tasks(engine) == [task]


def test_a_batch_is_answered_again_in_its_order(api: ApiClient, engine: Engine) -> None:
    batch = [{**DOCUMENT, "name": name, "instanceId": -at} for at, name in enumerate("abc")]
    first = submit(api, batch, path="/instances/batch")

    again = submit(api, batch, path="/instances/batch")

    assert (first.status_code, again.status_code) == (201, 200)
    assert [task["name"] for task in again.json()["data"]] == ["a", "b", "c"]
    assert again.json()["data"] == first.json()["data"]
    assert len(tasks(engine)) == 3


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/instances", {**DOCUMENT, "priority": 1}, "with another body"),
        ("/instances/batch", [DOCUMENT], "for another call (submit)"),
    ],
)
def test_a_key_that_was_used_for_something_else_is_refused(
    api: ApiClient, engine: Engine, path: str, body: object, why: str
) -> None:
    submit(api)

    refused = submit(api, body, path=path)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"], error["target"]) == (
        409,
        20006,
        "IdempotencyKeyReused",
        "k",
    )
    assert why in error["message"]
    assert len(tasks(engine)) == 1


def test_accounts_have_keys_of_their_own(api: ApiClient, engine: Engine) -> None:
    other = api.acting(Role.TASK_SUBMITTER, account="7")

    assert (submit(api).status_code, submit(other).status_code) == (201, 201)
    assert len(tasks(engine)) == 2


def test_another_submitter_of_the_account_finds_the_same_task(api: ApiClient, engine: Engine) -> None:
    first = submit(api)

    again = submit(api.acting(Role.TASK_SUBMITTER))

    assert again.json()["data"]["id"] == first.json()["data"]["id"]
    assert len(tasks(engine)) == 1


def test_a_submission_that_is_refused_leaves_the_key_unused(api: ApiClient, engine: Engine) -> None:
    wrong = {"subtasks": [{"key": "a", "kind": "test.unknown"}]}
    assert submit(api, wrong).status_code == 400
    api.post("/instances", json={**DOCUMENT, "instanceId": 1})
    assert submit(api, {**DOCUMENT, "instanceId": 1}).status_code == 409
    assert submit(api, [DOCUMENT, wrong], path="/instances/batch").status_code == 400
    assert keys(engine) == []

    assert submit(api).status_code == 201


def test_what_returned_another_task_returns_it_again(api: ApiClient, engine: Engine) -> None:
    document = {**DOCUMENT, "instanceId": 1, "onDuplicate": "return"}
    holder = api.post("/instances", json=document).json()["data"]["id"]
    assert submit(api, document).json()["data"]["id"] == holder
    execute(engine, "UPDATE tasks SET duplicate_key = NULL")

    again = submit(api, document)

    assert (again.status_code, again.json()["data"]["id"]) == (200, holder)


def test_a_key_whose_task_was_deleted_says_so(api: ApiClient, engine: Engine) -> None:
    task = submit(api).json()["data"]["id"]
    execute(engine, "DELETE FROM tasks")

    refused = submit(api)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["target"]) == (409, 20006, "k")
    assert error["message"] == (
        f"task {task} of the idempotency key 'k' has been deleted since: take a new key to submit anew"
    )
    assert submit(api, key="another").status_code == 201
    with transaction(engine) as connection, pytest.raises(IdempotencyKeyReused, match="deleted since"):
        submission.submit(connection, DOCUMENT, idempotency_key="k")


def test_a_batch_of_which_a_task_was_deleted_names_it(api: ApiClient, engine: Engine) -> None:
    batch = [{**DOCUMENT, "name": name} for name in "abc"]
    first, second, third = (task["id"] for task in submit(api, batch, path="/instances/batch").json()["data"])

    execute(engine, "DELETE FROM tasks WHERE id = :id", id=second)
    one_refused = submit(api, batch, path="/instances/batch")
    execute(engine, "DELETE FROM tasks WHERE id = :id", id=third)
    refused = submit(api, batch, path="/instances/batch")

    assert [answer.status_code for answer in (one_refused, refused)] == [409, 409]
    assert one_refused.json()["error"]["message"].startswith(
        f"task {second} of the idempotency key 'k' has been deleted"
    )
    assert refused.json()["error"]["message"].startswith(
        f"2 tasks, the first {second}, of the idempotency key 'k' have"
    )
    assert tasks(engine) == [first]


@pytest.mark.parametrize("key", [" k", "k "])
def test_a_blank_at_the_edge_of_a_key_is_refused(api: ApiClient, engine: Engine, key: str) -> None:
    refused = submit(api, key=key)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["target"]) == (400, 10001, "Idempotency-Key")
    assert "begins or ends with a blank" in error["message"]
    assert tasks(engine) == []


@pytest.mark.parametrize("key", ["", "x" * 256, b"\xc3\xbc", b"a\tb"])
def test_a_malformed_key_is_refused_before_the_body_is_read(api: ApiClient, engine: Engine, key: Any) -> None:
    refused = submit(api, "not even a document", key=key)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["target"]) == (400, 10001, "Idempotency-Key")
    assert "printable ASCII" in error["message"]
    assert tasks(engine) == []


def test_two_keys_in_one_call_are_refused(api: ApiClient, engine: Engine) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

    refused = api.request("POST", "/instances", json=DOCUMENT, headers=headers)

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, 10001)
    assert "more than once" in refused.json()["error"]["message"]
    assert tasks(engine) == []


def test_a_key_is_valid_for_a_day_and_then_new(api: ApiClient, engine: Engine) -> None:
    first = submit(api).json()["data"]["id"]
    age(engine, "23 hours 59 minutes")
    assert submit(api).json()["data"]["id"] == first
    age(engine, "2 minutes")

    renewed = submit(api, {**DOCUMENT, "priority": 1})

    assert renewed.status_code == 201
    assert submit(api, {**DOCUMENT, "priority": 1}).json()["data"]["id"] == renewed.json()["data"]["id"] != first
    assert submit(api).status_code == 409


def test_keys_that_are_too_old_are_deleted_now_and_then(engine: Engine) -> None:
    for name in ("old", "young"):
        with transaction(engine) as connection:
            claim_key(connection, IdempotentCall("0", name, "submit", b""))
            note_answer(connection, IdempotentCall("0", name, "submit", b""), {"tasks": [1]})
    execute(engine, "UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'")

    Upkeep(engine).look()

    assert keys(engine) == ["young"]


def test_deleting_takes_a_bounded_portion_and_passes_over_what_is_in_use(engine: Engine) -> None:
    with transaction(engine) as connection:
        for number in range(5):
            claim_key(connection, IdempotentCall("0", f"k{number}", "submit", b""))
    age(engine, "2 days")
    with engine.begin() as user, transaction(engine) as connection:
        assert claim_key(user, IdempotentCall("0", "k0", "submit", b"")) is None

        assert [idempotency.delete_old_keys(connection, limit=3) for _ in range(3)] == [3, 1, 0]

    assert keys(engine) == ["k0"]


def test_the_second_of_two_at_once_waits_and_is_told_the_answer_of_the_first(engine: Engine) -> None:
    def call(number: int) -> object:
        with transaction(engine) as connection:
            earlier = claim_key(connection, CALL)
            if earlier is None:
                note_answer(connection, CALL, {"tasks": [number]})
            return earlier

    answers = together(20, call)

    [(first, _)] = [(number, answer) for number, answer in enumerate(answers) if answer is None]
    assert [answer for answer in answers if answer is not None] == [{"tasks": [first]}] * 19


def test_a_key_of_a_call_that_was_rolled_back_is_free_for_whoever_waited(engine: Engine) -> None:
    with engine.begin() as first:
        claim_key(first, CALL)
        first.rollback()

    with transaction(engine) as second:
        assert claim_key(second, CALL) is None


def test_the_bytes_of_the_body_are_compared_and_not_its_length(engine: Engine) -> None:
    with transaction(engine) as connection:
        claim_key(connection, CALL)
        note_answer(connection, CALL, {})

    with pytest.raises(IdempotencyKeyReused), transaction(engine) as connection:
        claim_key(connection, IdempotentCall("0", "k", "submit", b"hasH"))
    assert one(engine, "SELECT body_hash FROM idempotency_keys")["body_hash"] == b"hash"
