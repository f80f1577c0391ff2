"""The kind `callback.element`: what it sends where, and what it makes of each answer."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from schema.errors import InvalidArgument
from schema.inputs import TaskInfo
from tests.receiver import Receiver, receiving
from workers import Context
from workers.callback_sender import CallbackFailed, NotDelivered, sender_of_this_process
from workers.environment import worker_settings
from workers.failures import BadResult, Refused, ResultTooLarge, error_message, error_type
from workers.outcome import Returned
from workers.registry import Handler, load_handlers


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv("TASKSERVER_CALLBACK_HOSTS", receiver.netloc)
        monkeypatch.setenv("TASKSERVER_SECRET_KEY", "the secret key of this test")
        for cached in (worker_settings, sender_of_this_process):
            cached.cache_clear()
        yield receiver
        for cached in (worker_settings, sender_of_this_process):
            cached.cache_clear()


def handler() -> Handler[Any, Any]:
    return load_handlers([]).find("callback.element")


def task(receiver: Receiver, **members: Any) -> TaskInfo:
    given: dict[str, Any] = {"callback": {"url": receiver.url, "path": "/sync"}, "task_type": "set_sync"}
    return TaskInfo(**{**given, **members})


def run(receiver: Receiver, data: object = None, **members: Any) -> Returned:
    context = Context(task(receiver, **members), idempotency_key="abc-1")
    return handler().binding.run(context, {"data": data})


def answering(receiver: Receiver, status: int, said: Any) -> None:
    receiver.answer = lambda _: (status, said)


def test_the_element_alone_is_the_body_and_the_whole_answer_the_result(receiver: Receiver) -> None:
    said = {"result": True, "bk_error_code": 0, "bk_error_msg": "", "permission": None, "data": {"created": [1]}}
    answering(receiver, 200, said)

    result = run(receiver, {"id": 7, "名": [None, "$arg"]})

    (received,) = receiver.received
    assert (received.path, received.payload) == ("/sync", {"id": 7, "名": [None, "$arg"]})
    assert received.headers["X-Taskserver-Delivery"] == "abc-1"
    assert result.value == said


def test_the_header_of_the_task_is_sent_again_with_its_names_as_they_are(receiver: Receiver) -> None:
    header = {"BK_User": "admin", "HTTP_BLUEKING_SUPPLIER_ID": "0", "Cc_Request_Id": "cc7"}

    run(receiver, header=header, traceparent="00-aa-bb-01")

    sent = receiver.received[0].headers
    assert {name: sent[name] for name in header} == header
    assert sent["traceparent"] == "00-aa-bb-01"


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (200, {"result": False, "bk_error_code": 1199006, "bk_error_msg": "no such set"}, "1199006: no such set"),
        (200, {"result": False, "code": 3, "message": "old"}, "3: old"),
        (200, {"result": False, "bk_error_msg": "only words"}, "only words"),
        (200, {"result": False}, "it gives no reason"),
        (400, {"result": False, "bk_error_code": 1}, "1"),
        (500, {"result": False, "bk_error_code": 1}, "1"),
    ],
)
def test_a_refusal_is_final_and_keeps_the_whole_answer(
    receiver: Receiver, status: int, said: Any, message: str
) -> None:
    answering(receiver, status, said)

    with pytest.raises(Refused) as caught:
        run(receiver)

    assert (error_type(caught.value), error_message(caught.value)) == ("refused", f"the receiver answered {message}")
    assert caught.value.answer == said
    assert not handler().retryable.covers(caught.value)


def test_a_refusal_that_cannot_be_stored_is_a_refusal_all_the_same(receiver: Receiver) -> None:
    answering(receiver, 200, b'{"result": false, "bk_error_msg": "a\\u0000b", "data": NaN}')

    with pytest.raises(Refused) as caught:
        run(receiver)

    assert caught.value.answer is None
    assert "\x00" not in error_message(caught.value)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_receiver_that_took_no_decision_is_asked_again(receiver: Receiver, status: int) -> None:
    answering(receiver, status, b"<html>later</html>")

    with pytest.raises(NotDelivered, match=f"answered {status}: <html>later") as caught:
        run(receiver)

    assert handler().retryable.covers(caught.value)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, b""),
        (200, b"ok"),
        (200, b"[true]"),
        (200, b"[" * 100_000),
        (200, b"1" * 5_000),
        (200, {"result": "true"}),
        (200, {"result": 1}),
        (200, {"data": 1}),
        (307, {"result": True}),
        (404, {"result": True}),
        (401, b""),
    ],
)
def test_an_answer_that_says_neither_fails_at_once_and_is_quoted(receiver: Receiver, status: int, said: Any) -> None:
    answering(receiver, status, said)

    with pytest.raises(CallbackFailed, match="receiver") as caught:
        run(receiver)

    assert not handler().retryable.covers(caught.value)
    assert len(receiver.received) == 1


def test_a_receiver_that_took_it_and_answers_what_cannot_be_stored_is_named_a_bad_result(receiver: Receiver) -> None:
    answering(receiver, 200, b'{"result": true, "data": "a\\u0000b"}')

    with pytest.raises(BadResult, match="NUL"):
        run(receiver)


def test_an_answer_of_the_most_bytes_is_read_whole_and_a_longer_one_refused(receiver: Receiver) -> None:
    empty = len(json.dumps({"result": True, "data": ""}))
    most = worker_settings().max_value_bytes
    answering(receiver, 200, {"result": True, "data": "x" * (most - empty)})
    assert len(run(receiver).value["data"]) == most - empty  # type: ignore[index]

    answering(receiver, 200, {"result": True, "data": "x" * (most - empty + 1)})
    with pytest.raises(ResultTooLarge, match="TASKSERVER_MAX_VALUE_BYTES"):
        run(receiver)


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize(
    "said", [{"result": False, "bk_error_code": 7, "bk_error_msg": "hunter2 is wrong"}, b"hunter2"]
)
def test_where_the_definition_hides_values_no_message_repeats_what_the_receiver_said(
    receiver: Receiver, status: int, said: Any
) -> None:
    answering(receiver, status, said)

    with pytest.raises((CallbackFailed, Refused), match="hides values") as caught:
        run(receiver, redacts=True)

    assert "hunter2" not in error_message(caught.value)


def test_nobody_listening_is_worth_another_attempt(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = {"url": "http://127.0.0.1:1", "path": ""}
    monkeypatch.setenv("TASKSERVER_CALLBACK_HOSTS", "127.0.0.1:1")
    for cached in (worker_settings, sender_of_this_process):
        cached.cache_clear()

    with pytest.raises(NotDelivered, match="failed") as caught:
        run(receiver, callback=callback)

    assert handler().retryable.covers(caught.value)
    assert handler().retryable.covers(TimeoutError())


def test_a_host_that_left_the_allow_list_is_not_called_and_not_tried_again(receiver: Receiver) -> None:
    callback = {"url": "http://localhost:9", "path": "/x"}

    with pytest.raises(InvalidArgument, match="TASKSERVER_CALLBACK_HOSTS") as caught:
        run(receiver, callback=callback)

    assert not handler().retryable.covers(caught.value)


def test_a_task_without_a_callback_says_what_to_use_instead(receiver: Receiver) -> None:
    with pytest.raises(InvalidArgument, match=r"http\.callback"):
        run(receiver, callback=None, task_type="inline")

    assert receiver.received == []
