"""Callback queues on the whole stack: elements go out in order, signed, with the header, and operators can act on them."""

import hashlib
import hmac
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schema.database import transaction
from schema.limits import Limits
from schema.signing import signing_key
from schema.transitions.definitions import NewDefinition, put_definition
from taskserver.callback_tasks import CallbackTask, prepare_callback_tasks
from taskserver.new_rows import Submitter
from tests.acceptance.stack import Running, running
from tests.acceptance.verbs import operate
from tests.eventually import eventually
from tests.receiver import Received, Receiver, Reply, receiving, take

PAGE = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text()
SECRET_KEY = "the secret key of this test"
KEY = signing_key(SECRET_KEY)
UNLISTED = "http://127.0.0.1:9"
REFUSAL = {"result": False, "bk_error_code": 1199006, "bk_error_msg": "no such set", "permission": None, "data": [1]}


@pytest.fixture(scope="module")
def _receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def receiver(_receiver: Receiver) -> Receiver:
    _receiver.received, _receiver.answer = [], take
    return _receiver


@pytest.fixture(scope="module")
def page_receiver() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run the receiver of the page; give its address."""
    found = re.search(r"```python\n(# receiver\.py\n.*?)```", PAGE, re.DOTALL)
    assert found is not None
    environment = {**os.environ, "CALLBACK_KEY": KEY.decode(), "PORT": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", found[1]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("receiving on ").strip(), process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def product(
    tmp_path_factory: pytest.TempPathFactory, _receiver: Receiver, page_receiver: tuple[str, "subprocess.Popen[str]"]
) -> Iterator[Running]:
    hosts = f"{_receiver.netloc},{page_receiver[0].removeprefix('http://')}"
    settings = {"TASKSERVER_CALLBACK_HOSTS": hosts, "TASKSERVER_SECRET_KEY": SECRET_KEY}
    with running(tmp_path_factory.mktemp("callbacks"), settings=settings) as product:
        yield product


def put(product: Running, name: str, url: str, **callback: Any) -> None:
    document = {"callback": {"url": url, "path": "/sync", **callback}}
    answer = product.http.put(f"/api/v2/tasks/definitions/{name}", json=document)
    assert answer.status_code in {200, 201}, answer.text


def create(product: Running, name: str, *data: object, **header: str) -> int:
    task = CallbackTask(name, time.monotonic_ns(), "", data)
    prepared = prepare_callback_tasks([task], Submitter("sync", "0"), header=header, limits=Limits())
    return int(prepared.store(product.engine)[0].task)


def states(product: Running, task: int) -> list[str]:
    return [one["status"] for one in product.subtasks(task).values()]


def refuse_second(received: Received) -> Reply:
    return (200, REFUSAL) if received.payload == 2 else take(received)


def test_elements_go_out_in_their_order_signed_and_with_the_header(product: Running, receiver: Receiver) -> None:
    put(product, "ordered", receiver.url)
    elements = [{"id": number, "名": None} for number in range(20)]

    task = create(product, "ordered", *elements, BK_User="admin", Cc_Request_Id="cc7", Authorization="Bearer t")

    assert product.settle(task) == "SUCCESSFUL"
    assert receiver.payloads == elements
    for one in receiver.received:
        signed = f"{one.headers['X-Taskserver-Timestamp']}.{one.headers['X-Taskserver-Delivery']}.".encode() + one.body
        assert one.headers["X-Taskserver-Signature"] == f"sha256={hmac.new(KEY, signed, hashlib.sha256).hexdigest()}"
        assert (one.path, one.headers["BK_User"], one.headers["Cc_Request_Id"]) == ("/sync", "admin", "cc7")
        assert "Authorization" not in one.headers
    assert len({one.headers["X-Taskserver-Delivery"] for one in receiver.received}) == 20
    assert product.results(task)["data[19]"] == take(receiver.received[0])[1]


def test_a_refusal_ends_the_task_and_a_retry_goes_on_where_it_stopped(product: Running, receiver: Receiver) -> None:
    put(product, "refusing", receiver.url, retry=3)
    receiver.answer = refuse_second

    task = create(product, "refusing", 1, 2, 3)

    assert product.settle(task) == "FAILED"
    assert receiver.payloads == [1, 2]  # once: a refusal is an answer
    detail = product.detail(task)
    assert states(product, task) == ["SUCCESSFUL", "FAILED", "PENDING"]
    assert detail["error"]["message"] == "the receiver answered 1199006: no such set"
    failed = detail["subtasks"][1]
    answer = product.http.get(f"/api/v2/tasks/instances/{task}/subtasks/{failed['id']}").json()["data"]
    assert [one["result"] for one in answer["attempts"]] == [REFUSAL]

    receiver.answer = take
    operate(product, task, "retry", key="data[1]")
    assert product.settle(task) == "SUCCESSFUL"
    assert receiver.payloads == [1, 2, 2, 3]
    deliveries = [one.headers["X-Taskserver-Delivery"] for one in receiver.received]
    assert len(set(deliveries)) == 4  # an operator's retry is another delivery


def test_what_was_not_answered_is_posted_again_as_the_same_delivery(product: Running, receiver: Receiver) -> None:
    put(product, "flaky", receiver.url, retry=3)
    receiver.answer = lambda received: (503, b"later") if len(receiver.received) < 3 else take(received)

    task = create(product, "flaky", 1)

    assert product.settle(task) == "SUCCESSFUL"
    assert [one.outcome for one in product.attempts(task)] == ["FAILED", "FAILED", "SUCCESSFUL"]
    assert len({one.headers["X-Taskserver-Delivery"] for one in receiver.received}) == 1


def test_a_post_that_takes_too_long_is_ended_and_counts_as_an_attempt(product: Running, receiver: Receiver) -> None:
    put(product, "slow", receiver.url, timeoutSeconds=0.3)
    over = threading.Event()
    receiver.answer = lambda received: (over.wait(), take(received))[1]

    task = create(product, "slow", 1, 2)

    assert product.settle(task) == "FAILED"
    over.set()
    assert receiver.payloads == [1]
    assert states(product, task) == ["FAILED", "PENDING"]


def test_a_skipped_element_lets_the_rest_go_on(product: Running, receiver: Receiver) -> None:
    put(product, "skipping", receiver.url)
    receiver.answer = refuse_second
    task = create(product, "skipping", 1, 2, 3)
    product.settle(task)

    operate(product, task, "skip", key="data[1]")

    assert product.settle(task) == "SUCCESSFUL"
    assert receiver.payloads == [1, 2, 3]


def test_a_cancel_ends_the_running_post_within_a_second(product: Running, receiver: Receiver) -> None:
    put(product, "cancelled", receiver.url, timeoutSeconds=600)
    over, begun = threading.Event(), threading.Event()
    receiver.answer = lambda received: (begun.set(), over.wait(), take(received))[2]
    task = create(product, "cancelled", 1, 2)
    assert begun.wait(30)

    began = time.monotonic()
    operate(product, task, "cancel")
    assert product.settle(task) == "REVOKED"
    seconds = time.monotonic() - began
    over.set()

    assert seconds < 1.5
    assert receiver.payloads == [1]


def test_a_pause_lets_the_running_post_end_and_holds_the_next(product: Running, receiver: Receiver) -> None:
    put(product, "paused", receiver.url)
    over, begun = threading.Event(), threading.Event()
    receiver.answer = lambda received: (begun.set(), over.wait(), take(received))[2]
    task = create(product, "paused", 1, 2)
    assert begun.wait(30)

    operate(product, task, "pause")
    over.set()
    eventually(lambda: states(product, task) == ["SUCCESSFUL", "PENDING"], what="the first has ended, the second waits")
    assert receiver.payloads == [1]
    operate(product, task, "resume")

    assert product.settle(task) == "SUCCESSFUL"
    assert receiver.payloads == [1, 2]


def test_a_worker_that_dies_posts_the_element_again_as_the_same_delivery(product: Running, receiver: Receiver) -> None:
    put(product, "killed", receiver.url)
    over, begun = threading.Event(), threading.Event()
    receiver.answer = lambda received: (begun.set(), over.wait(), take(received))[2]
    task = create(product, "killed", 1, 2)
    assert begun.wait(30)

    before = product.kill("worker")
    over.set()
    receiver.answer = take

    assert product.settle(task, within=60) == "SUCCESSFUL"
    product.restarted("worker", before)
    assert receiver.payloads == [1, 1, 2]
    first, again, _ = [one.headers["X-Taskserver-Delivery"] for one in receiver.received]
    assert first == again


def test_a_host_that_is_not_on_the_list_is_refused_when_put_and_when_it_runs(product: Running) -> None:
    document = {"callback": {"url": UNLISTED, "path": "/sync", "retry": 5}}
    answer = product.http.put("/api/v2/tasks/definitions/unlisted", json=document)
    assert (answer.status_code, "TASKSERVER_CALLBACK_HOSTS" in answer.text) == (400, True)
    with transaction(product.engine) as connection:
        put_definition(connection, NewDefinition("0", "unlisted", document, "tester"))

    task = create(product, "unlisted", 1)

    assert product.settle(task) == "FAILED"
    assert "TASKSERVER_CALLBACK_HOSTS" in product.detail(task)["error"]["message"]
    assert len(product.attempts(task)) == 1


def test_an_element_outside_a_callback_task_says_what_to_use(product: Running) -> None:
    task = product.submit([{"key": "a", "kind": "callback.element", "arguments": {"data": 1}}])

    assert product.settle(task) == "FAILED"
    assert "http.callback" in product.detail(task)["error"]["message"]


def test_a_long_queue_is_run_to_its_end(product: Running, receiver: Receiver) -> None:
    put(product, "long", receiver.url)

    task = create(product, "long", *range(600))

    assert product.settle(task, within=120) == "SUCCESSFUL"
    assert receiver.payloads == list(range(600))


def test_the_receiver_of_the_page_takes_what_is_signed_once_and_nothing_else(
    product: Running, page_receiver: tuple[str, "subprocess.Popen[str]"]
) -> None:
    url, process = page_receiver
    put(product, "page", url)
    assert product.settle(create(product, "page", {"set": 7})) == "SUCCESSFUL"

    forged = {"X-Taskserver-Timestamp": str(int(time.time())), "X-Taskserver-Delivery": "d"}
    body = b'{"set":8}'
    signature = hmac.new(KEY, f"{forged['X-Taskserver-Timestamp']}.d.".encode() + body, hashlib.sha256).hexdigest()
    answers = [
        httpx.post(url, content=content, headers={**forged, "X-Taskserver-Signature": f"sha256={given}"}).status_code
        for content, given in [(body, signature), (body, signature), (body + b" ", signature), (body, "0" * 64)]
    ]
    process.terminate()
    assert process.stdout is not None

    assert answers == [200, 200, 401, 401]
    assert process.stdout.read().splitlines() == ["doing {'set': 7}", "doing {'set': 8}"]
