"""What workers and the handlers in them know: enough to sign callbacks, and nothing that makes tokens."""

import hashlib
import hmac
import http.server
import threading
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from schema.settings import Settings
from schema.signing import signing_key
from tests.acceptance.stack import Running, running

SECRET_KEY = "the secret key of this test"


class Receiver(http.server.HTTPServer):
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Accept)
        self.netloc = f"127.0.0.1:{self.server_port}"
        self.received: list[tuple[Message, bytes]] = []


class _Accept(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.received.append((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Running]:
    settings = {
        "TASKSERVER_SECRET_KEY": SECRET_KEY,
        "TASKSERVER_ADMIN_TOKEN": "a token of this test",
        "TASKSERVER_CALLBACK_HOSTS": receiver.netloc,
    }
    with running(tmp_path_factory.mktemp("secrets"), settings=settings) as product:
        yield product


def test_handlers_find_no_secret_and_cannot_find_out_what_makes_tokens(product: Running) -> None:
    task = product.submit([{"key": "a", "kind": "probe.environment"}])
    product.assert_successful([task])

    found = product.results(task)["a"]

    secrets = {
        f"TASKSERVER_{name.upper()}"
        for name, field in Settings.model_fields.items()
        if "Secret" in str(field.annotation)
    }
    assert not secrets & set(found["now"])
    assert secrets & set(found["atStart"]) == {
        "TASKSERVER_DATABASE_URL",
        "TASKSERVER_REDIS_URL",
        "TASKSERVER_CALLBACK_KEY",
    }
    assert {"TASKSERVER_HANDLERS", "TASKSERVER_CALLBACK_HOSTS"} <= set(found["now"])


def test_a_worker_signs_callbacks_with_the_key_that_is_made_of_the_secret_key(
    product: Running, receiver: Receiver, tmp_path: Path
) -> None:
    arguments = {"url": f"http://{receiver.netloc}/hook", "payload": {"at": str(tmp_path)}}
    task = product.submit([{"key": "call", "kind": "http.callback", "arguments": arguments}])
    product.assert_successful([task])

    [(headers, body)] = receiver.received

    signed = f"{headers['X-Taskserver-Timestamp']}.{headers['X-Taskserver-Delivery']}.".encode() + body
    expected = hmac.new(signing_key(SECRET_KEY), signed, hashlib.sha256).hexdigest()
    assert headers["X-Taskserver-Signature"] == f"sha256={expected}"
