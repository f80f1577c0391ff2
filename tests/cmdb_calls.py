"""The BK-CMDB dialect as its clients call it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from sqlalchemy import Engine

from schema.identity import SubtaskId, TaskId
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, many, one

HOST = "hooks.example.org"
Document = dict[str, Any]


@contextmanager
def cmdb_api(engine: Engine, redis_url: str) -> Iterator[ApiClient]:
    """Run the application, with a callback queue of the name `sync`."""
    with running_api(engine, redis_url, callback_hosts=(HOST,)) as api:
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
