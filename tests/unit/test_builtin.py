"""The built-in kinds do what the contract says of them."""

import hashlib
import hmac
import http.server
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stdout

import pytest

from schema.callback_hosts import CallbackHosts
from schema.errors import InvalidArgument
from schema.inputs import TaskInfo
from schema.signing import signing_key
from workers import Context
from workers.callback_sender import (
    MAX_RESPONSE_BYTES,
    CallbackFailed,
    CallbackSender,
    sender_of_this_process,
    sign,
)
from workers.environment import worker_settings
from workers.failures import BadArgument, Cancelled
from workers.outcome import Returned
from workers.registry import load_handlers

KEY = signing_key("the secret key of this test")


def run(kind: str, arguments: dict[str, object], context: Context | None = None) -> Returned:
    return load_handlers([]).find(kind).binding.run(context or Context(), arguments)


def test_noop_does_nothing_and_takes_nothing() -> None:
    assert run("builtin.noop", {}).value is None
    with pytest.raises(BadArgument):
        run("builtin.noop", {"a": 1})


def test_echo_returns_its_arguments_whatever_their_names() -> None:
    arguments = {"ctx": 1, "self": [None], "arguments": {"x": "y"}, "a b": 2.5}

    assert run("builtin.echo", arguments).value == arguments
    assert run("builtin.echo", {}).value == {}


def test_sleep_sleeps() -> None:
    began = time.monotonic()

    run("builtin.sleep", {"seconds": 0.05})

    assert time.monotonic() - began >= 0.05


def test_sleep_ends_at_once_when_cancelled() -> None:
    cancellation = threading.Event()
    cancellation.set()

    with pytest.raises(Cancelled):
        run("builtin.sleep", {"seconds": 3600}, Context(cancellation=cancellation))


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "soon", None])
def test_sleep_takes_a_number_of_seconds(seconds: object) -> None:
    with pytest.raises(BadArgument, match="/seconds"):
        run("builtin.sleep", {"seconds": seconds})


def test_fail_fails_the_first_attempts() -> None:
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="not yet"):
            run("builtin.fail", {"message": "not yet", "times": 2}, Context(attempt=attempt))

    assert run("builtin.fail", {"message": "not yet", "times": 2}, Context(attempt=3)).value is None


def test_fail_without_times_fails_always() -> None:
    with pytest.raises(RuntimeError, match="asked to fail"):
        run("builtin.fail", {}, Context(attempt=1000))


@pytest.mark.parametrize(("lines", "text"), [(2, "line 1\nline 2\n"), (["a", "b c"], "a\nb c\n"), (0, ""), ([], "")])
def test_log_writes_lines(lines: object, text: str) -> None:
    written = io.StringIO()

    with redirect_stdout(written):
        result = run("builtin.log", {"lines": lines})

    assert written.getvalue() == text
    assert result.value == text.count("\n")


class Receiver(http.server.ThreadingHTTPServer):
    """A real HTTP server that keeps what it was sent and answers as told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b'{"ok": true}'

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.netloc}/hook?a=1"


class _Answering(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, dict(self.headers), body))
        self.send_response(self.server.status)
        for name, value in {"Content-Length": str(len(self.server.body)), **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(self.server.body)
        except ConnectionError:
            self.close_connection = True  # the sender had read enough

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("TASKSERVER_CALLBACK_HOSTS", server.netloc)
        monkeypatch.setenv("TASKSERVER_SECRET_KEY", "the secret key of this test")
        for cached in (worker_settings, sender_of_this_process):
            cached.cache_clear()
        yield server
        for cached in (worker_settings, sender_of_this_process):
            cached.cache_clear()
        server.shutdown()
        thread.join()


def sender(*hosts: str) -> CallbackSender:
    return CallbackSender(CallbackHosts.parse(hosts), key=KEY)


def test_a_callback_is_a_signed_post(receiver: Receiver) -> None:
    context = Context(TaskInfo(traceparent="00-aa-bb-01"), idempotency_key="abc-1")

    result = run(
        "http.callback", {"url": receiver.url, "payload": {"é": [1, None]}, "headers": {"X-Rid": "7"}}, context
    )

    ((path, headers, body),) = receiver.received
    signed = f"{headers['X-Taskserver-Timestamp']}.abc-1.".encode() + body
    assert (path, json.loads(body)) == ("/hook?a=1", {"é": [1, None]})
    assert headers["X-Taskserver-Delivery"] == "abc-1"
    assert headers["X-Taskserver-Signature"] == "sha256=" + hmac.new(KEY, signed, hashlib.sha256).hexdigest()
    assert abs(int(headers["X-Taskserver-Timestamp"]) - time.time()) < 60
    assert (headers["Content-Type"], headers["Host"]) == ("application/json", receiver.netloc)
    assert (headers["X-Rid"], headers["traceparent"]) == ("7", "00-aa-bb-01")
    assert result.value == {"status": 200, "body": '{"ok": true}', "isCut": False}


def test_the_signature_depends_on_each_of_its_parts() -> None:
    parts = {"timestamp": "1", "delivery": "a", "body": b"{}"}
    changes: list[dict[str, object]] = [{}, {"timestamp": "2"}, {"delivery": "b"}, {"body": b"[]"}]

    signatures = {sign(KEY, **{**parts, **change}) for change in changes}  # type: ignore[arg-type]

    assert len(signatures | {sign(signing_key("other"), timestamp="1", delivery="a", body=b"{}")}) == 5


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_an_answer_that_is_no_success_fails_with_what_it_said(receiver: Receiver, status: int) -> None:
    receiver.status, receiver.body = status, b"no such host"

    with pytest.raises(CallbackFailed, match=f"answered {status}: no such host"):
        run("http.callback", {"url": receiver.url, "payload": None})


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.status, receiver.headers = 307, {"Location": receiver.url}

    with pytest.raises(CallbackFailed, match="redirects are not followed"):
        run("http.callback", {"url": receiver.url, "payload": None})

    assert len(receiver.received) == 1


def test_a_host_that_is_not_in_the_list_is_not_called(receiver: Receiver) -> None:
    url = f"http://localhost:{receiver.server_address[1]}/"

    with pytest.raises(InvalidArgument, match="TASKSERVER_CALLBACK_HOSTS"):
        run("http.callback", {"url": url, "payload": None})

    assert not load_handlers([]).find("http.callback").retryable.covers(InvalidArgument("x"))
    assert receiver.received == []


def test_a_listed_name_that_leads_inside_is_not_called(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    port = receiver.server_address[1]
    lookups: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("workers.callback_connection.getaddrinfo", resolve)

    with pytest.raises(CallbackFailed, match=r"leads to 127\.0\.0\.1, inside the network"):
        sender("hooks.example.com").send(f"http://hooks.example.com:{port}/", 1, delivery="a", timeout_seconds=5)
    assert receiver.received == []

    answer = sender("hooks.example.com", "127.0.0.1").send(
        f"http://hooks.example.com:{port}/", 1, delivery="a", timeout_seconds=5
    )
    assert answer.status == 200
    assert receiver.received[0][1]["Host"] == f"hooks.example.com:{port}"
    assert lookups == ["hooks.example.com"] * 2


def test_localhost_is_called_where_it_is_listed(receiver: Receiver) -> None:
    url = f"http://localhost:{receiver.server_address[1]}/"

    assert sender("localhost").send(url, 1, delivery="a", timeout_seconds=5).status == 200


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert run("http.callback", {"url": receiver.url, "payload": 1}).value["status"] == 200  # type: ignore[index]


def test_of_a_long_answer_only_the_beginning_is_read(receiver: Receiver) -> None:
    receiver.body = b"x" * (MAX_RESPONSE_BYTES * 50)

    answer = sender(receiver.netloc).send(receiver.url, 1, delivery="a", timeout_seconds=10)

    assert (len(answer.body), answer.is_cut) == (MAX_RESPONSE_BYTES, True)


def test_nobody_listening_is_a_failure_that_names_the_url_without_its_query() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        netloc = f"127.0.0.1:{listener.getsockname()[1]}"

    with pytest.raises(CallbackFailed, match=f"POST http://{netloc}/x failed") as caught:
        sender(netloc).send(f"http://{netloc}/x?token=secret", 1, delivery="a", timeout_seconds=5)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil"},
        {"content-length": "0"},
        {"Authorization": "x"},
        {"Cookie": "x"},
        {"X-Taskserver-Signature": "x"},
        {"X-A": "b\r\nX-C: d"},
        {"X A": "b"},
        {"X-A": "é"},
    ],
)
def test_headers_of_the_sender_and_broken_ones_are_refused(receiver: Receiver, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="header"):
        run("http.callback", {"url": receiver.url, "payload": 1, "headers": headers})

    assert receiver.received == []
