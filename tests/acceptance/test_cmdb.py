"""A client as BK-CMDB's own services have one, against a running product whose callbacks reach a real receiver."""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Dev, running_dev
from tests.eventually import eventually
from tests.receiver import Received, Receiver, Reply, receiving, take

Document = dict[str, Any]
IN_PROGRESS = ["new", "waiting", "executing"]
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class CallError(Exception):
    """The answer said that the call failed."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class TaskClient:
    """Calls as the services of the original do: POSTs with their headers, answers decoded into typed structs.

    The HTTP status is not looked at; the envelope is. A member of another type than the struct's is an error, one that is
    missing is the type's zero.
    """

    def __init__(self, url: str, token: str) -> None:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "BK_User": "cmdb_operator",
            "HTTP_BLUEKING_SUPPLIER_ID": "0",
            "HTTP_BLUEKING_LANGUAGE": "en",
            "Cc_Request_Id": "cc0000a1b2c3",
            "BK_Token": "never-stored",
            "Authorization": f"Bearer {token}",
        }
        self._http = httpx.Client(base_url=f"{url}/task/v3", headers=headers, timeout=30)

    def close(self) -> None:
        self._http.close()

    def create(self, task_type: str, instance: int, data: list[Any]) -> Document:
        return _task(self._post("/task/create", {"task_type": task_type, "bk_inst_id": instance, "data": data}))

    def create_batch(self, tasks: list[Document]) -> list[Document]:
        return [_task(one) for one in self._post("/createmany/task", tasks)]

    def list_task(self, name: str, condition: Document, page: Document) -> Document:
        data = self._post(f"/task/findmany/list/{name}", {"condition": condition, "page": page})
        assert type(data["count"]) is int
        return {"info": [_task(one) for one in data["info"]], "count": data["count"], "page": data["page"]}

    def list_latest_task(self, name: str, condition: Document, fields: list[str] | None) -> list[Document]:
        body = {"condition": condition, "fields": fields}
        return [_task(one) for one in self._post(f"/task/findmany/list/latest/{name}", body)]

    def task_detail(self, task_id: str) -> Document | None:
        info = self._post(f"/task/findone/detail/{task_id}", None)["info"]
        return None if info is None else _task(info)

    def delete_task(self, condition: Document) -> None:
        self._post("/task/deletemany", {"condition": condition})

    def list_latest_sync_status(self, condition: Document, fields: list[str] | None = None) -> list[Document]:
        return [
            _status(one)
            for one in self._post("/findmany/latest/sync_status", {"condition": condition, "fields": fields})
        ]

    def list_sync_status_history(self, option: Document) -> Document:
        data = self._post("/findmany/sync_status_history", option)
        assert type(data["count"]) is int
        return {"info": [_status(one) for one in data["info"]], "count": data["count"]}

    def _post(self, path: str, body: object) -> Any:
        answer = self._http.post(path, content=b"" if body is None else json.dumps(body).encode())
        envelope = answer.json()
        assert type(envelope["result"]) is bool
        assert type(envelope["bk_error_code"]) is int
        assert type(envelope["bk_error_msg"]) is str
        if not envelope["result"]:
            raise CallError(envelope["bk_error_code"], envelope["bk_error_msg"])
        return envelope["data"]


def _decoded(document: Document, struct: Mapping[str, type]) -> Document:
    for name, sort in struct.items():
        value = document.get(name)
        assert value is None or type(value) is sort, (name, value)
    for name in ("create_time", "last_time"):
        assert document.get(name) is None or _RFC_3339.fullmatch(document[name])
    return {name: document.get(name, sort()) for name, sort in struct.items()}


def _task(document: Document) -> Document:
    struct = {"task_id": str, "task_type": str, "bk_inst_id": int, "user": str, "header": dict, "status": str}
    decoded = _decoded(document, struct | {"detail": list, "create_time": str, "last_time": str})
    assert all(type(one) is str for values in decoded["header"].values() for one in values)
    for one in decoded["detail"]:
        assert _decoded(one, {"sub_task_id": str, "status": str, "response": dict})["sub_task_id"]
        if one["response"] is not None:
            _decoded(one["response"], {"result": bool, "bk_error_code": int, "bk_error_msg": str})
    return decoded


def _status(document: Document) -> Document:
    struct = {"task_id": str, "task_type": str, "bk_inst_id": int, "status": str, "creator": str}
    return _decoded(document, struct | {"create_time": str, "last_time": str, "bk_supplier_account": str})


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Dev]:
    directory = tmp_path_factory.mktemp("cmdb")
    with running_dev(directory, "--concurrency", "2", env={"TASKSERVER_CALLBACK_HOSTS": receiver.netloc}) as running:
        yield running


@pytest.fixture
def queue(dev: Dev, receiver: Receiver, request: pytest.FixtureRequest) -> Iterator[str]:
    """A task type of the test's own, whose elements go to the receiver."""
    name = re.sub(r"\W", "_", request.node.name)
    receiver.received.clear()
    receiver.answer = take
    callback = {"url": receiver.url, "path": f"/topo/v3/{name}", "retry": 1, "timeoutSeconds": 20}
    answer = httpx.put(
        f"{dev.url}/api/v2/tasks/definitions/{name}",
        json={"callback": callback},
        headers={"Authorization": f"Bearer {dev.token}"},
    )
    assert answer.is_success, answer.text
    yield name
    receiver.answer = take


@pytest.fixture
def client(dev: Dev) -> Iterator[TaskClient]:
    client = TaskClient(dev.url, dev.token)
    yield client
    client.close()


def settled(client: TaskClient, task_id: str) -> Document:
    """Poll the detail, as the services do, until nothing is in progress."""

    def ended() -> Document | None:
        found = client.task_detail(task_id)
        assert found is not None
        return found if found["status"] not in IN_PROGRESS else None

    return eventually(ended, within=30, what=f"task {task_id} has settled") or {}


def test_elements_are_synchronised_in_their_order_as_who_asked(
    client: TaskClient, receiver: Receiver, queue: str
) -> None:
    data = [{"bk_set_id": 5, "module": n} for n in range(4)]

    created = client.create(queue, 5, data)
    found = settled(client, created["task_id"])

    assert created["status"] in IN_PROGRESS
    assert [one["data"] for one in created["detail"]] == data
    assert receiver.payloads == data
    assert {one.path for one in receiver.received} == {f"/topo/v3/{queue}"}
    assert {one.headers["BK_User"] for one in receiver.received} == {"cmdb_operator"}
    assert {one.headers["Cc_Request_Id"] for one in receiver.received} == {"cc0000a1b2c3"}
    assert found["status"] == "finished"
    assert [one["status"] for one in found["detail"]] == ["finished"] * 4
    assert found["detail"][0]["response"] == take(receiver.received[0])[1]
    assert found["header"]["Bk_user"] == ["cmdb_operator"]
    assert found["user"] == "cmdb_operator"


def test_no_credential_is_stored_shown_or_sent_on(client: TaskClient, receiver: Receiver, queue: str, dev: Dev) -> None:
    created = client.create(queue, 1, [1])

    found = settled(client, created["task_id"])

    told = json.dumps([created, found, [one.headers for one in receiver.received]])
    assert "never-stored" not in told
    assert dev.token not in told


def test_a_refusal_stops_the_task_and_is_shown_whole(client: TaskClient, receiver: Receiver, queue: str) -> None:
    refused = {
        "result": False,
        "bk_error_code": 1101001,
        "bk_error_msg": "no such set",
        "permission": None,
        "data": [1],
    }

    def answer(received: Received) -> Reply:
        return (200, refused) if received.payload == 1 else take(received)

    receiver.answer = answer

    found = settled(client, client.create(queue, 1, [0, 1, 2])["task_id"])

    assert found["status"] == "failure"
    assert [one["status"] for one in found["detail"]] == ["finished", "failure", "new"]
    assert found["detail"][1]["response"] == refused
    assert found["detail"][2]["response"] is None
    assert receiver.payloads == [0, 1]


def test_one_task_of_an_instance_at_a_time(client: TaskClient, receiver: Receiver, queue: str) -> None:
    go_on = threading.Event()

    def answer(received: Received) -> Reply:
        go_on.wait(20)
        return take(received)

    receiver.answer = answer
    first = client.create(queue, 7, [1])
    try:
        with pytest.raises(CallError) as caught:
            client.create(queue, 7, [2])
        with pytest.raises(CallError):
            client.create_batch([{"task_type": queue, "bk_inst_id": n, "data": [n]} for n in (8, 7)])
    finally:
        go_on.set()

    assert caught.value.code == 1117008
    assert settled(client, first["task_id"])["status"] == "finished"
    assert settled(client, client.create(queue, 7, [2])["task_id"])["status"] == "finished"
    assert client.list_task(queue, {}, {"limit": 10, "start": 0})["count"] == 2


def test_two_at_once_for_an_instance_leave_one(client: TaskClient, queue: str) -> None:
    def create(_: int) -> str:
        try:
            return str(client.create(queue, 9, [1] * 20)["task_id"])
        except CallError as error:
            return str(error.code)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(create, range(6)))

    [made] = {one for one in answers if one != "1117008"}
    assert answers.count("1117008") == 5
    assert settled(client, made)["status"] == "finished"


def test_the_state_of_many_instances_is_polled_from_the_history(client: TaskClient, queue: str) -> None:
    tasks = client.create_batch([{"task_type": queue, "bk_inst_id": n, "data": [n]} for n in (1, 2, 3)])
    ids = [one["task_id"] for one in tasks]
    option = {
        "condition": {"task_type": queue, "task_id": {"$in": ids}},
        "fields": ["status", "task_id"],
        "page": {"start": 0},
        "disable_counter": True,
    }
    eventually(
        lambda: {one["status"] for one in client.list_sync_status_history(option)["info"]} == {"finished"},
        within=30,
        what="all are synchronised",
    )

    latest = client.list_latest_sync_status(
        {"bk_inst_id": {"$in": [1, 2, 3]}, "task_type": queue},
        ["bk_inst_id", "create_time", "last_time", "creator", "status"],
    )

    assert [(one["bk_inst_id"], one["status"], one["creator"]) for one in latest] == [
        (1, "finished", "cmdb_operator"),
        (2, "finished", "cmdb_operator"),
        (3, "finished", "cmdb_operator"),
    ]
    assert all(datetime.fromisoformat(one["create_time"]) for one in latest)


def test_the_last_task_of_an_instance_is_listed(client: TaskClient, queue: str) -> None:
    settled(client, client.create(queue, 4, ["old"])["task_id"])
    newest = settled(client, client.create(queue, 4, ["new"])["task_id"])

    page = {"sort": "-create_time", "limit": 1, "start": 0}
    listed = client.list_task(queue, {"bk_inst_id": 4}, page)
    latest = client.list_latest_task(queue, {"bk_inst_id": {"$in": [4]}}, ["task_id", "bk_inst_id", "status"])

    assert listed == {"info": [newest], "count": 2, "page": page}
    assert [(one["task_id"], one["status"], one["detail"]) for one in latest] == [(newest["task_id"], "finished", [])]


def test_tasks_of_an_instance_are_deleted_with_it_and_their_history_stays(client: TaskClient, queue: str) -> None:
    task_id = settled(client, client.create(queue, 6, [1])["task_id"])["task_id"]

    client.delete_task({"bk_inst_id": {"$in": [6]}, "task_type": queue})

    assert client.task_detail(task_id) is None
    history = client.list_sync_status_history({"condition": {"task_id": task_id}, "page": {"start": 0}})
    assert [one["status"] for one in history["info"]] == ["finished"]
    with pytest.raises(CallError) as caught:
        client.delete_task({})
    assert caught.value.code == 1199006


def test_a_failed_element_goes_on_after_an_operator_has_retried_it(
    client: TaskClient, receiver: Receiver, queue: str, dev: Dev
) -> None:
    receiver.answer = lambda received: (503, b"busy") if received.payload == 1 else take(received)
    failed = settled(client, client.create(queue, 2, [0, 1, 2])["task_id"])
    receiver.answer = take

    number = next(one["id"] for one in dev.run_json("list")["contents"] if one["taskId"] == failed["task_id"])
    dev.run_json("retry", str(number))
    found = settled(client, failed["task_id"])

    assert failed["detail"][1]["response"]["result"] is False
    assert failed["detail"][1]["response"]["bk_error_msg"]
    assert found["status"] == "finished"
    assert receiver.payloads == [0, 1, 1, 2]


def test_a_wrong_token_is_an_error_of_the_envelope(dev: Dev) -> None:
    client = TaskClient(dev.url, "wrong")

    with pytest.raises(CallError) as caught:
        client.list_sync_status_history({})
    client.close()

    assert caught.value.code == 1199027
