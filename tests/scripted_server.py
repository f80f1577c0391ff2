"""A real HTTP server that answers what a test has prepared, in order, and keeps what it was asked.

For what a healthy server does not do on demand: lose an answer, break off a stream, be cut off, be silent.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

Answer = Callable[["_Handler"], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


class ScriptedServer(ThreadingHTTPServer):
    """Answers in order; asked for more than there is, it answers 500, which no client repeats."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[Asked] = []
        self.gone = threading.Event()
        self._answers: deque[Answer] = deque()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answers(self, *answers: Answer) -> None:
        """Prepare more answers."""
        self._answers.extend(answers)

    def take(self) -> Answer:
        return self._answers.popleft() if self._answers else error(500, 10000, "the test has prepared no more answers")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    query: Mapping[str, str]

    def _answer(self) -> None:
        server = cast(ScriptedServer, self.server)
        parts = urlsplit(self.path)
        sent = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        server.asked.append(Asked(self.command, parts.path, self.query, headers, json.loads(sent) if sent else None))
        server.take()(self)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - as the library names them

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library names it
        """Write nothing."""

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def data(value: object, *, status: int = 200, **headers: str) -> Answer:
    """Return an answer in the envelope."""
    body = json.dumps({"data": value, "successful": True, "status": status}).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda handler: handler.send(status, body, named)


def error(status: int, code: int, message: str, **headers: str) -> Answer:
    """Return an error in the envelope."""
    return failed(status, {"code": code, "type": "Error", "message": message}, **headers)


def failed(status: int, failure: Mapping[str, Any], **headers: str) -> Answer:
    """Return an error with all its members."""
    body = json.dumps({"error": failure, "successful": False, "status": status}).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda handler: handler.send(status, body, named)


def unchanged(etag: str) -> Answer:
    """Return the answer that nothing has changed."""
    return lambda handler: handler.send(304, b"", {"ETag": etag})


def page(text: str, *, status: int = 200) -> Answer:
    """Return the answer of somebody else's server."""
    return lambda handler: handler.send(status, text.encode(), {"Content-Type": "text/html"})


def lost(handler: _Handler) -> None:
    """Take the request and end the connection without an answer."""
    handler.close_connection = True


def after(event: threading.Event, answer: Answer) -> Answer:
    """Return the answer that is given once the event is set."""

    def late(handler: _Handler) -> None:
        event.wait(30)
        answer(handler)

    return late


def held(answer: Answer) -> Answer:
    """Return the answer that is given when the time is over for which the request lets it be held."""

    def late(handler: _Handler) -> None:
        threading.Event().wait(float(handler.query["waitSeconds"]))
        answer(handler)

    return late


def together(barrier: threading.Barrier, answer: Answer) -> Answer:
    """Return the answer that is given once all others at the barrier are asked for as well."""

    def late(handler: _Handler) -> None:
        barrier.wait(30)
        answer(handler)

    return late


def events(texts: Sequence[tuple[str, str]], *, ending: str = "end") -> Answer:
    """Return a stream of log texts with their cursors.

    Args:
        texts: Text and cursor of each event.
        ending: `end` with the event that says so; `close` without; `break` in the middle; `hold` until the caller goes.

    """

    def streamed(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        written = [
            f"event: log\nid: {cursor}\ndata: {json.dumps({'log': text, 'cursor': cursor})}\n\n"
            for text, cursor in texts
        ]
        written += ["event: end\ndata: {}\n\n"] if ending == "end" else [": keep-alive\n"]
        for event in written:
            chunk = event.encode()
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        if ending in {"end", "close"}:
            handler.wfile.write(b"0\r\n\r\n")
        elif ending == "hold":
            with suppress(ConnectionResetError):  # who goes with something unread resets the connection
                while handler.connection.recv(1024):
                    pass
            cast(ScriptedServer, handler.server).gone.set()
        handler.close_connection = True

    return streamed


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Run a server for the block."""
    server = ScriptedServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def status(state: str = "RUNNING", *, change: int = 1, task: int = 7) -> dict[str, Any]:
    """Return a status document."""
    progress = {"PENDING": 0, "READY": 0, "RUNNING": 1, "CANCELING": 0, "FAILED": 0, "SUCCESSFUL": 0}
    return {"id": task, "taskId": f"{task:032x}", "state": state, "progress": progress, "changeNumber": change}


def subtask(key: str = "a", *, id_: int = 70, state: str = "RUNNING") -> dict[str, Any]:
    """Return a subtask's document."""
    return {"id": id_, "key": key, "status": state, "attempt": 1, "maxAttempts": 1}


def detail(state: str = "RUNNING", *, task: int = 7, keys: Sequence[str] = ("a",)) -> dict[str, Any]:
    """Return a detail document; its subtasks count from 70."""
    subtasks = [subtask(key, id_=70 + place) for place, key in enumerate(keys)]
    return {**status(state, task=task), "name": "a task", "subtasks": subtasks}
