"""A real HTTP server that receives callbacks: it keeps what it was sent, and answers as it is told."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Reply = tuple[int, Any]


@dataclass(frozen=True)
class Received:
    """One POST; the names of its headers are as they were sent."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def payload(self) -> Any:
        return json.loads(self.body)


def take(_: Received) -> Reply:
    """Take whatever comes, as a BK-CMDB service says it."""
    return 200, {"result": True, "bk_error_code": 0, "bk_error_msg": "success", "permission": None, "data": None}


class Receiver(http.server.ThreadingHTTPServer):
    """The server; `answer` returns a status, and JSON or the bytes of the body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.received: list[Received] = []
        self.answer: Callable[[Received], Reply] = take

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.netloc}"

    @property
    def payloads(self) -> list[Any]:
        return [one.payload for one in self.received]


class _Answering(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        received = Received(self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append(received)
        status, said = self.server.answer(received)
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # the sender had read enough, or was stopped

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver for the block."""
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()
