"""What a verb answers of a large task: the beginning of its detail, from a query that reads no more than that."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from taskserver.embedded.stack import EmbeddedStack
from taskserver.queries.listing import MAX_SUBTASKS
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, execute, make_task

LEAVES = MAX_SUBTASKS + 5


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


def _large(engine: Engine, **options: dict[str, Any]) -> StoredTask:
    leaves = [f"leaf[{index}]" for index in range(LEAVES)]
    return make_task(engine, {"root": (), **dict.fromkeys(leaves, ("root",)), "end": tuple(leaves)}, options)


def _among(subtask: dict[str, Any], shown: set[int]) -> dict[str, Any]:
    return {**subtask, "downstreams": [one for one in subtask["downstreams"] if one in shown]}


def test_the_first_subtasks_are_those_of_the_detail_and_name_only_each_other(api: ApiClient, engine: Engine) -> None:
    task = _large(engine)
    task.run("root")

    answered = api.post(f"/instances/{task.id}/pause").json()["data"]

    whole = api.data(f"/instances/{task.id}")
    first = whole["subtasks"][:MAX_SUBTASKS]
    shown = {one["id"] for one in first}
    assert len(whole["subtasks"]) == answered["subtaskCount"] == LEAVES + 2
    assert answered["subtasks"] == [_among(one, shown) for one in first]
    assert len(answered["subtasks"][0]["downstreams"]) == MAX_SUBTASKS - 1
    assert {**answered, "subtasks": []} == {**whole, "subtasks": []}


def test_what_forbids_a_rollback_is_seen_wherever_it_stands(api: ApiClient, engine: Engine) -> None:
    last = f"leaf[{LEAVES - 1}]"
    task = _large(engine, **{last: {"prohibit_rollback": True}})
    task.run("root")

    before = api.post(f"/instances/{task.id}/pause").json()["data"]["prohibitRollback"]
    api.post(f"/instances/{task.id}/resume")
    task.run(last)
    after = api.post(f"/instances/{task.id}/pause").json()["data"]["prohibitRollback"]

    assert (before, after) == (False, True)


def test_what_waits_for_downstreams_that_are_not_answered_does_not_say_none(api: ApiClient, engine: Engine) -> None:
    leaves = [f"leaf[{index}]" for index in range(LEAVES)]
    task = make_task(
        engine,
        {"root": (), **dict.fromkeys(leaves, ()), "end": ("root",)},
        {"root": {"has_rollback": True}, "end": {"has_rollback": True}},
    )
    task.run("root")
    task.run("end", verdict="FAILED")
    execute(engine, "UPDATE task_progress SET open = false WHERE id = :task", task=task.id)
    assert task.column("state") == "FAILED"

    root = api.post(f"/instances/{task.id}/rollback").json()["data"]["subtasks"][0]

    assert (root["key"], root["downstreams"]) == ("root", [])
    assert root["waitReason"] == {
        "type": "upstream",
        "detail": "is rolled back after what follows it, which must be undone first",
        "upstreams": [],
    }


def test_another_accounts_task_is_not_found(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, account="7")

    assert api.post(f"/instances/{task.id}/pause").status_code == 404
