"""The kind `callback.element`: what it sends where, and what it makes of each answer."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from schema.errors import InvalidArgument
from schema.inputs import TaskInfo
from schema.storable import stored_size
from tests.receiver import Receiver, receiving
from workers import Context
from workers.callback_sender import CallbackFailed, NotDelivered, sender_of_this_process
from workers.environment import worker_settings
from workers.failures import Refused, error_message, error_type
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


def most_bytes() -> int:
    return worker_settings().max_value_bytes


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

    assert isinstance(caught.value.answer, dict)
    assert (caught.value.answer["result"], caught.value.answer["data"]) == (False, None)
    assert caught.value.answer["bk_error_msg"] == "a\ufffdb"
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
        (200, b"[true]"),
        (200, b"5"),
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


@pytest.mark.parametrize(
    "said", [b"", b"<html>proxy</html>", b"[" * 100_000, b"1" * 5_000, b"\xff", b'{"result": true, "da']
)
def test_a_success_that_is_no_json_is_no_answer_and_asked_for_again(receiver: Receiver, said: bytes) -> None:
    answering(receiver, 200, said)

    with pytest.raises(NotDelivered, match="no JSON") as caught:
        run(receiver)

    assert handler().retryable.covers(caught.value)


def test_an_answer_that_is_longer_than_anyone_reads_is_no_answer(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.handlers.callback_element.READ_BYTES", 300_000)
    answering(receiver, 200, {"result": True, "data": "x" * 300_000})

    with pytest.raises(NotDelivered, match="more than 300000 bytes") as caught:
        run(receiver)

    assert handler().retryable.covers(caught.value)


def test_an_answer_of_the_most_bytes_is_stored_whole(receiver: Receiver) -> None:
    said = {"result": True, "data": "x" * (most_bytes() - stored_size({"result": True, "data": ""}))}
    answering(receiver, 200, said)

    assert run(receiver).value == said


def test_of_a_longer_answer_all_but_its_data_is_stored(receiver: Receiver) -> None:
    said = {"result": True, "bk_error_code": 0, "bk_error_msg": "done", "data": "x" * most_bytes()}
    answering(receiver, 200, said)

    returned = run(receiver)

    assert returned.value == {**said, "data": None, "data_omitted_bytes": len(json.dumps(said))}


def test_a_refusal_that_is_too_long_is_a_refusal_all_the_same(receiver: Receiver) -> None:
    said = {"result": False, "bk_error_code": 7, "bk_error_msg": "no", "data": ["x" * most_bytes()]}
    answering(receiver, 200, said)

    with pytest.raises(Refused, match="answered 7: no") as caught:
        run(receiver)

    assert isinstance(caught.value.answer, dict)
    kept = {"result": False, "bk_error_code": 7, "bk_error_msg": "no", "data": None}
    assert kept.items() <= caught.value.answer.items()
    assert caught.value.answer["data_omitted_bytes"] > most_bytes()


@pytest.mark.parametrize("result", [True, False])
@pytest.mark.parametrize(
    "long", [{"other": ["x" * 300_000]}, {"bk_error_msg": "x" * 300_000}, {"a\x00": 1, "bk_error_code": 2**70}]
)
def test_whatever_is_too_much_of_an_answer_its_outcome_is_kept(
    receiver: Receiver, result: bool, long: dict[str, Any]
) -> None:
    answering(receiver, 200, {"result": result, **long})

    if result:
        answer = run(receiver).value
    else:
        with pytest.raises(Refused) as caught:
            run(receiver)
        answer = caught.value.answer

    assert isinstance(answer, dict)
    assert (answer["result"], answer["data"]) == (result, None)
    assert type(answer["bk_error_code"]) is int
    assert stored_size(answer) < 2_000
    assert answer["data_omitted_bytes"] > 0


def test_what_cannot_be_stored_is_left_out_of_a_success(receiver: Receiver) -> None:
    said = b'{"result": true, "bk_error_msg": "done", "data": "a\\u0000b"}'
    answering(receiver, 200, said)

    returned = run(receiver)

    kept = {"result": True, "bk_error_msg": "done", "data": None, "data_omitted_bytes": len(said)}
    assert returned.value == kept


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
