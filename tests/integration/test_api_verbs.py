"""The operators' calls: what they take, what they answer, and what they refuse."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.kinds import KindInfo
from schema.transitions.registrations import register_kinds
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from tests.api_client import PREFIX, ApiClient, running_api
from tests.factories import StoredTask, execute, make_task, many, together
from tests.invariants import assert_invariants
from tests.operators import audit, dump, use

TASK_VERBS = ["retry", "rollback", "cancel", "pause", "resume", "abandon"]
SUBTASK_VERBS = ["retry", "skip", "cancel"]


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
    with running_api(engine, stack.redis_url) as api:
        yield api
    assert_invariants(engine)


def failed(engine: Engine, **columns: Any) -> StoredTask:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"has_rollback": True}}, **columns)
    task.run("a", verdict="FAILED", error_message="no route")
    return task


def suited(engine: Engine, verb: str) -> StoredTask:
    """Return a task that allows the verb."""
    if verb in {"retry", "rollback", "abandon"}:
        return failed(engine)
    task = make_task(engine, {"a": (), "b": ("a",)})
    if verb == "resume":
        use(task, "pause")
    return task


def of(task: StoredTask, verb: str, key: str | None = None) -> str:
    middle = "" if key is None else f"/subtasks/{task.ids[key]}"
    return f"/instances/{task.id}{middle}/{verb}"


def refusal(response: Any, status: int, code: int) -> Any:
    """Check that a call was refused, in the envelope; return the error."""
    body = response.json()
    assert (response.status_code, body["status"], body["successful"], body["error"]["code"]) == (
        status,
        status,
        False,
        code,
    ), response.text
    assert "data" not in body
    return body["error"]


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        ("retry", "RUNNING"),
        ("rollback", "RUNNING"),
        ("cancel", "REVOKED"),
        ("pause", "SUSPENDED"),
        ("resume", "RUNNING"),
        ("abandon", "REVOKED"),
    ],
)
def test_a_verb_without_a_body_and_a_content_type_answers_the_detail(
    api: ApiClient, engine: Engine, verb: str, state: str
) -> None:
    task = suited(engine, verb)

    response = api.post(of(task, verb))

    assert response.status_code == 200, response.text
    assert (response.json()["data"]["id"], response.json()["data"]["state"]) == (task.id, state)
    assert response.json()["data"] == api.data(f"/instances/{task.id}")
    assert [row["verb"] for row in audit(task)][-1] == verb


def test_a_retried_subtask_is_answered_and_a_skipped_or_cancelled_one_is_not(api: ApiClient, engine: Engine) -> None:
    running = make_task(engine, {"a": ()})
    running.begin("a")
    retried, skipped = failed(engine), failed(engine)

    answers = [
        api.post(of(task, verb, "a")).json()
        for task, verb in ((retried, "retry"), (skipped, "skip"), (running, "cancel"))
    ]

    assert [answer["successful"] for answer in answers] == [True, True, True]
    assert answers[0]["data"]["id"] == retried.ids["a"]
    assert (answers[0]["data"]["status"], answers[0]["data"]["operation"]) == ("PENDING", "RETRY")
    assert ["data" in answer for answer in answers] == [True, False, False]
    assert [task.row("a")["state"] for task in (retried, skipped, running)] == ["PENDING", "SUCCESSFUL", "CANCELING"]


def test_the_audit_tells_who_did_what_and_why(api: ApiClient, engine: Engine) -> None:
    task = failed(engine)
    manager = api.acting(Role.TASK_MANAGER)

    manager.post(of(task, "retry", "a"), json={"reason": "disk replaced"}, headers={"x-trace-id": "00f067aa0ba902b7"})
    api.post(of(task, "pause"), content=b"  ")

    first, second = api.data(f"/instances/{task.id}/operations")["contents"]
    assert {**first, "time": ""} == {
        "verb": "retry",
        "principal": "task_manager.0",
        "from": "FAILED",
        "to": "PENDING",
        "reason": "disk replaced",
        "time": "",
        "subtaskId": task.ids["a"],
    }
    assert (second["verb"], second["principal"], second["from"], second["to"]) == (
        "pause",
        "admin",
        "RUNNING",
        "SUSPENDED",
    )
    assert "reason" not in second
    assert audit(task)[0]["trace_id"] == "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"reason": 5}', "reason"),
        (b'{"reason": ["x"]}', "reason"),
        (b'{"reason": "a\\u0000b"}', "reason"),
        (b'{"reason": "\\ud800"}', "reason"),
        (b'{"reason": "' + b"x" * 2_001 + b'"}', "reason"),
        (b'{"why": "x"}', "why"),
    ],
)
def test_a_wrong_body_is_refused_naming_the_member_and_changes_nothing(
    api: ApiClient, engine: Engine, body: bytes, field: str
) -> None:
    task = failed(engine)
    before = dump(engine)

    for path in (of(task, "retry"), of(task, "skip", "a")):
        error = refusal(api.post(path, content=body), 400, 10001)
        assert field in {one["field"].strip("/") for one in error["subErrors"]}

    assert dump(engine) == before


@pytest.mark.parametrize("body", [b"[]", b'"retry"', b"0", b"false"])
def test_a_body_that_is_no_object_is_told_what_the_verb_takes(api: ApiClient, engine: Engine, body: bytes) -> None:
    task = failed(engine)
    before = dump(engine)

    for path, takes in (
        (of(task, "retry"), "send no body, or {"),
        (of(task, "skip", "a"), "send no body, or {"),
        ("/instances/retry", 'send {"ids": […]} or {"filter": {…}}'),
    ):
        error = refusal(api.post(path, content=body), 400, 10001)
        assert error["message"].startswith(f"the body: must be a JSON object: {takes}")
        assert len(error["subErrors"]) == 1

    assert dump(engine) == before


def test_null_is_no_body_also_under_a_key(api: ApiClient, engine: Engine) -> None:
    task = failed(engine)
    headers = {"Idempotency-Key": "once"}

    statuses = [
        api.post(of(task, "retry"), content=body, headers=headers).status_code for body in (b" null\n", b"", b"{}")
    ]

    assert statuses == [200] * 3
    assert len(audit(task)) == 1
    assert "either ids or a filter" in refusal(api.post("/instances/retry", content=b"null"), 400, 10001)["message"]


def test_a_body_that_is_no_json_or_too_large_is_refused(api: ApiClient, engine: Engine) -> None:
    task = failed(engine)

    refusal(api.post(of(task, "retry"), content=b"{"), 400, 10001)
    refusal(api.post(of(task, "retry"), content=b'{"reason": "a", "reason": "b"}'), 400, 10001)
    refusal(api.post(of(task, "retry"), content=b" " * 70_000), 413, 10002)

    assert task.column("state") == "FAILED"


@pytest.mark.parametrize("role", [Role.TASK_VIEWER, Role.TASK_SUBMITTER])
def test_who_may_not_operate_is_refused_and_changes_nothing(api: ApiClient, engine: Engine, role: Role) -> None:
    caller, task = api.acting(role), failed(engine)
    before = dump(engine)

    paths = [of(task, verb) for verb in TASK_VERBS] + [of(task, verb, "a") for verb in SUBTASK_VERBS]
    for path in [*paths, "/instances/retry", f"/instances/{task.id + 1}/retry"]:
        refusal(caller.post(path), 403, 30014)

    assert dump(engine) == before


def test_what_is_not_there_or_another_accounts_is_not_found(api: ApiClient, engine: Engine) -> None:
    task, other, foreign = failed(engine), failed(engine), failed(engine, account="7")
    before = dump(engine)

    for verb in TASK_VERBS:
        missing = refusal(api.post(of(foreign, verb)), 404, 20000)
        assert str(foreign.id) in missing["message"]
    for verb in SUBTASK_VERBS:
        refusal(api.post(of(foreign, verb, "a")), 404, 20000)
        error = refusal(api.post(f"/instances/{task.id}/subtasks/{other.ids['a']}/{verb}"), 404, 20000)
        assert error["target"] == str(other.ids["a"])

    assert dump(engine) == before


def test_a_verb_that_does_not_fit_says_what_it_needs(api: ApiClient, engine: Engine) -> None:
    task = failed(engine)

    error = refusal(api.post(of(task, "resume")), 400, 20003)
    assert error["message"] == f"task {task.id} is FAILED: resume needs SUSPENDED"
    error = refusal(api.post(of(task, "skip", "b")), 400, 20003)
    assert error["message"] == f"subtask 'b' ({task.ids['b']}) is PENDING: skip needs FAILED"


def test_a_prohibited_rollback_and_a_held_instance_have_codes_of_their_own(api: ApiClient, engine: Engine) -> None:
    prohibited = failed(engine, prohibit_rollback=True)
    columns = {"instance_id": 42, "duplicate_key": '["0", "inline", 42, ""]'}
    first = failed(engine, **columns)
    holder = make_task(engine, {"a": ()}, **columns)

    refusal(api.post(of(prohibited, "rollback")), 400, 20004)
    error = refusal(api.post(of(first, "retry")), 409, 20005)

    assert error["target"] == str(holder.id)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_than_post_is_refused_in_the_envelope_and_does_nothing(
    api: ApiClient, engine: Engine, method: str
) -> None:
    task = failed(engine)
    before = dump(engine)

    paths = [of(task, verb) for verb in TASK_VERBS] + [of(task, verb, "a") for verb in SUBTASK_VERBS]
    for path in [*paths, "/instances/retry"]:
        response = api.request(method, path)
        if path == "/instances/retry" and method == "GET":
            assert response.status_code == 400  # the detail of a task whose id is no number
        else:
            assert response.status_code == 405, path
            assert "POST" in response.headers["allow"]
        assert response.json()["successful"] is False

    assert dump(engine) == before


@pytest.mark.parametrize(("verb", "key"), [(verb, None) for verb in TASK_VERBS] + [("retry", "a"), ("skip", "a")])
def test_a_verb_that_comes_again_with_its_key_is_answered_and_does_nothing(
    api: ApiClient, engine: Engine, verb: str, key: str | None
) -> None:
    task = suited(engine, "retry" if key else verb)
    headers = {"Idempotency-Key": "once"}

    first = api.post(of(task, verb, key), json={"reason": "r"}, headers=headers)
    before = dump(engine)
    again = api.post(of(task, verb, key), json={"reason": "r"}, headers=headers)

    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert again.json().get("data") == first.json().get("data")
    assert dump(engine) == before


def test_a_verb_that_comes_again_without_a_key_is_refused(api: ApiClient, engine: Engine) -> None:
    task = failed(engine)
    assert api.post(of(task, "retry")).status_code == 200

    refusal(api.post(of(task, "retry")), 400, 20003)


def test_a_key_is_for_one_verb_on_one_thing_with_one_body(api: ApiClient, engine: Engine) -> None:
    task, other = failed(engine), failed(engine)
    headers = {"Idempotency-Key": "once"}
    api.post(of(task, "retry"), headers=headers)
    before = dump(engine)

    for path, body in (
        (of(task, "retry"), {"reason": "x"}),
        (of(task, "cancel"), {}),
        (of(other, "retry"), {}),
        (of(task, "retry", "a"), {}),
    ):
        error = refusal(api.post(path, json=body, headers=headers), 409, 20006)
        assert error["target"] == "once"

    assert dump(engine) == before
    refusal(api.post(of(task, "cancel"), headers={"Idempotency-Key": "x" * 256}), 400, 10001)


def test_a_refused_verb_burns_no_key(api: ApiClient, engine: Engine) -> None:
    task = failed(engine)
    headers = {"Idempotency-Key": "once"}
    refusal(api.post(of(task, "resume"), headers=headers), 400, 20003)

    assert api.post(of(task, "retry"), headers=headers).status_code == 200


def test_two_at_once_with_one_key_do_it_once(api: ApiClient, engine: Engine) -> None:
    task = failed(engine)
    headers = {"Idempotency-Key": "once"}

    statuses = together(4, lambda _: api.post(of(task, "retry"), headers=headers).status_code)

    assert statuses == [200] * 4
    assert len(audit(task)) == 1


def test_several_tasks_are_retried_at_once_and_each_has_its_answer(api: ApiClient, engine: Engine) -> None:
    good, going, foreign = failed(engine), make_task(engine, {"a": ()}), failed(engine, account="7")

    response = api.post("/instances/retry", json={"ids": [good.id, going.id, foreign.id, 999, good.id], "reason": "r"})

    assert response.status_code == 200, response.text
    contents = response.json()["data"]["contents"]
    assert [(one["id"], one["successful"]) for one in contents] == [
        (good.id, True),
        (going.id, False),
        (foreign.id, False),
        (999, False),
    ]
    assert [one["error"]["code"] for one in contents[1:]] == [20003, 20000, 20000]
    assert "error" not in contents[0]
    assert (good.column("state"), foreign.column("state")) == ("RUNNING", "FAILED")
    assert audit(good)[-1]["reason"] == "r"


def test_a_filter_finds_the_failed_tasks_to_retry(api: ApiClient, engine: Engine) -> None:
    wanted, other = failed(engine, name="nightly 1"), failed(engine, name="by hand")
    failed(engine, name="nightly 2", account="7")
    make_task(engine, {"a": ()}, name="nightly 3")

    response = api.post("/instances/retry", json={"filter": {"name": "nightly"}})

    assert response.json()["data"]["contents"] == [{"id": wanted.id, "successful": True}]
    assert (wanted.column("state"), other.column("state")) == ("RUNNING", "FAILED")
    assert api.post("/instances/retry", json={"filter": {"name": "nightly"}}).json()["data"]["contents"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": [1], "filter": {}},
        {"ids": []},
        {"ids": list(range(1, 1_002))},
        {"ids": [0]},
        {"ids": ["1"]},
        {"ids": [True]},
        {"ids": [2**70]},
        {"filter": {"colour": "red"}},
        {"filter": {"state": 5}},
        {"filter": []},
        {"filter": {"name": ""}},
        {"filter": {"creator": ""}},
        {"filter": {"state": "RUNNING"}},
        {"filter": {"state": ["FAILED", "RUNNING"]}},
        {"filter": {"status": "SUCCESSFUL"}},
        {"ids": [1], "else": 1},
    ],
)
def test_a_bulk_retry_of_nothing_of_too_much_or_of_nonsense_is_refused(
    api: ApiClient, engine: Engine, body: dict[str, Any]
) -> None:
    task = failed(engine)

    refusal(api.post("/instances/retry", json=body), 400, 10001)

    assert (task.column("state"), audit(task)) == ("FAILED", [])


def _make_failed_rows(engine: Engine, count: int, *, name: str = "") -> None:
    execute(
        engine,
        "INSERT INTO tasks (name, state, subtask_count, finalized_at, error)"
        " SELECT :name, 'FAILED', 0, now(), '{}' FROM generate_series(1, :count)",
        name=name,
        count=count,
    )
    execute(
        engine, "UPDATE sync_history SET error = '{}' WHERE task_id IN (SELECT id FROM tasks WHERE subtask_count = 0)"
    )


def test_a_filter_that_finds_too_many_retries_none(api: ApiClient, engine: Engine) -> None:
    _make_failed_rows(engine, 1_001)

    error = refusal(api.post("/instances/retry", json={"filter": {}}), 400, 10001)

    assert "1000" in error["message"]
    assert many(engine, "SELECT * FROM operations") == []


def test_a_bulk_retry_that_comes_again_with_its_key_is_answered_as_before(api: ApiClient, engine: Engine) -> None:
    task = failed(engine)
    headers = {"Idempotency-Key": "once"}
    body = {"ids": [task.id, 999]}

    first = api.post("/instances/retry", json=body, headers=headers)
    again = api.post("/instances/retry", json=body, headers=headers)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json()["data"] == first.json()["data"]
    assert len(audit(task)) == 1
    refusal(api.post("/instances/retry", json={"ids": [999]}, headers=headers), 409, 20006)


def test_a_filter_is_not_asked_again_when_the_call_comes_again_with_its_key(api: ApiClient, engine: Engine) -> None:
    task = failed(engine, name="nightly")
    headers = {"Idempotency-Key": "once"}
    body = {"filter": {"name": "nightly"}}

    first = api.post("/instances/retry", json=body, headers=headers)
    _make_failed_rows(engine, 1_001, name="nightly")
    again = api.post("/instances/retry", json=body, headers=headers)

    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert again.json()["data"] == first.json()["data"] == {"contents": [{"id": task.id, "successful": True}]}


def test_a_filter_that_says_failed_finds_what_a_retry_is_for(api: ApiClient, engine: Engine) -> None:
    task, revoked = failed(engine), failed(engine)
    use(revoked, "abandon")

    response = api.post("/instances/retry", json={"filter": {"state": ["FAILED"], "status": "FAILED"}})

    assert response.json()["data"]["contents"] == [{"id": task.id, "successful": True}]


@pytest.mark.parametrize(
    ("wanted", "field", "cure"),
    [
        ({"state": "RUNNING"}, "/filter/state", "only FAILED tasks are retried: leave it out"),
        ({"name": ""}, "/filter/name", "must not be empty: leave it out to find any"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused_with_its_cure(
    api: ApiClient, wanted: dict[str, Any], field: str, cure: str
) -> None:
    error = refusal(api.post("/instances/retry", json={"filter": wanted}), 400, 10001)

    [problem] = error["subErrors"]
    assert problem["field"] == field
    assert cure in problem["message"]


def test_the_verbs_are_in_the_description_of_the_api(api: ApiClient) -> None:
    paths = api.get("//openapi.json").json()["paths"]

    for verb in TASK_VERBS:
        assert list(paths[f"{PREFIX}/instances/{{id}}/{verb}"]) == ["post"]
