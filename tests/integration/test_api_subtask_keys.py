"""A subtask found by its key: one small row, however many subtasks the task has."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from tests.api_client import ApiClient, running_api
from tests.factories import make_task


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


def test_a_key_finds_its_subtask_and_no_other_tasks(api: ApiClient, engine: Engine) -> None:
    graph = {"mount": (), "mount[0]": ("mount",), "mount[1]": ("mount",)}
    task = make_task(engine, graph, {"mount[1]": {"name": "Mount /data/2", "kind": "host.mount"}})
    make_task(engine, graph)

    found = api.data(f"/instances/{task.id}/subtasks", params={"key": "mount[1]"})

    assert found == {
        "contents": [
            {
                "id": task.ids["mount[1]"],
                "key": "mount[1]",
                "name": "Mount /data/2",
                "description": "mount[1]",
                "kind": "host.mount",
                "status": "PENDING",
                "operation": "EXECUTE",
            }
        ]
    }


@pytest.mark.parametrize("key", ["b", "", ".", "A", "a%", "x" * 1000])
def test_a_key_that_the_task_does_not_have_finds_nothing(api: ApiClient, engine: Engine, key: str) -> None:
    task = make_task(engine, {"a": ()})

    found = api.data(f"/instances/{task.id}/subtasks", params={"key": key})

    assert found == {"contents": []}


def test_a_task_that_is_not_there_or_another_accounts_is_not_found(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    other = api.acting(Role.TASK_VIEWER, "other")

    absent = api.error(f"/instances/{task.id + 1}/subtasks", 404, params={"key": "a"})
    hidden = other.error(f"/instances/{task.id}/subtasks", 404, params={"key": "a"})

    assert (absent["code"], hidden["code"]) == (20000, 20000)
    assert str(task.id) in hidden["message"]


@pytest.mark.parametrize("parameters", [{}, {"key": "a\0"}, {"key": "a", "name": "a"}])
def test_a_question_without_a_key_or_with_more_is_refused(
    api: ApiClient, engine: Engine, parameters: dict[str, str]
) -> None:
    task = make_task(engine, {"a": ()})

    refused = api.error(f"/instances/{task.id}/subtasks", 400, params=parameters)

    assert refused["code"] == 10001
