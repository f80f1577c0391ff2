"""Several submissions in one call: all of them or none."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from schema.database import transaction
from schema.kinds import KindInfo
from schema.transitions.registrations import register_kinds
from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import ApiClient, running_api


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
    with running_api(engine, stack.redis_url) as api:
        yield api


def document(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "subtasks": [{"key": "only", "kind": "test.kind"}], **fields}


def stored(engine: Engine) -> int:
    with transaction(engine) as connection:
        return int(connection.execute(text("SELECT count(*) FROM tasks")).scalar_one())


def test_a_batch_answers_the_details_in_the_order_given(api: ApiClient) -> None:
    response = api.post("/instances/batch", json=[document("a"), document("b"), document("c")])

    assert response.status_code == 201
    assert [task["name"] for task in response.json()["data"]] == ["a", "b", "c"]
    assert [task["subtasks"][0]["key"] for task in response.json()["data"]] == ["only"] * 3


def test_one_wrong_submission_refuses_the_batch_and_names_its_place(api: ApiClient, engine: Engine) -> None:
    wrong = document("b", priority=10)

    response = api.post("/instances/batch", json=[document("a"), wrong])

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith("submission 1: ")
    assert [one["field"] for one in error["subErrors"]] == ["/1/priority"]
    assert stored(engine) == 0


def test_two_of_one_instance_in_a_batch_are_a_duplicate(api: ApiClient, engine: Engine) -> None:
    response = api.post("/instances/batch", json=[document("a", instanceId=7), document("b", instanceId=7)])

    assert (response.status_code, response.json()["error"]["code"]) == (409, 20005)
    assert stored(engine) == 0


@pytest.mark.parametrize("body", [[], {}, "text", [document("a")] * 1001])
def test_what_is_no_batch_is_refused(api: ApiClient, engine: Engine, body: object) -> None:
    response = api.post("/instances/batch", json=body)

    assert (response.status_code, response.json()["error"]["code"]) == (400, 10001)
    assert stored(engine) == 0
