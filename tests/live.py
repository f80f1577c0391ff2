"""The API as a server process runs it, on a socket: for what is sent while it happens, and for clients that go away."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import uvicorn
from httpx_sse import EventSource, ServerSentEvent
from sqlalchemy import Engine

from schema.celeryapp import make_redis
from schema.settings import Settings
from taskserver.api.app import create_app
from taskserver.api.waiting import Watch
from taskserver.principals import bootstrap_admin
from taskserver.server import http_server, listening
from tests.api_client import PREFIX, SECRET_KEY
from tests.eventually import eventually

SECONDS = 10  # less than between two signs of life, or a read would never be too late
SERVER = "live"  # the name of its connections


@dataclass(frozen=True)
class Event:
    """One event as a client sees it."""

    name: str
    id: str
    data: Any

    @classmethod
    def of(cls, sent: ServerSentEvent) -> "Event":
        return cls(sent.event, sent.id, json.loads(sent.data))


@dataclass
class Stream:
    """A response that goes on."""

    response: httpx.Response
    _events: Iterator[ServerSentEvent] = field(init=False)

    def __post_init__(self) -> None:
        self._events = EventSource(self.response).iter_sse()

    def __iter__(self) -> Iterator[Event]:
        return map(Event.of, self._events)

    def next(self) -> Event:
        return next(iter(self))

    def to_the_end(self) -> list[Event]:
        """Return what still comes until the server closes the stream."""
        return list(self)


@dataclass(frozen=True)
class LiveApi:
    """A running server, and calls to it as its first administrator."""

    url: str
    token: str = field(repr=False)
    watch: Watch
    server: uvicorn.Server
    thread: threading.Thread
    http: httpx.Client

    @contextmanager
    def stream(self, path: str, accept: str = "text/event-stream", **headers: str) -> Iterator[Stream]:
        wanted = {"accept": accept, **{name.replace("_", "-"): value for name, value in headers.items()}}
        with self.http.stream("GET", PREFIX + path, headers=wanted) as response:
            if response.status_code != 200:
                response.read()
            yield Stream(response)

    @contextmanager
    def unread(self, path: str, accept: str = "text/event-stream") -> Iterator[socket.socket]:
        """Ask on a connection that takes as little as it can, and read nothing."""
        lines = [f"GET {PREFIX}{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.token}", f"Accept: {accept}"]
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(SECONDS)
            connection.connect((self.http.base_url.host, self.http.base_url.port or 80))
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            yield connection

    def data(self, path: str, **parameters: Any) -> Any:
        response = self.http.get(PREFIX + path, params=parameters)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def followed_by(self, count: int) -> None:
        """Wait until so many follow something."""
        eventually(lambda: self.watch.followers == count, what=f"{count} follow")

    def stop(self) -> None:
        """Ask the server to end, as a signal does, and wait."""
        self.server.should_exit = True
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@contextmanager
def live_api(engine: Engine, redis_url: str, **given: Any) -> Iterator[LiveApi]:
    """Run a server with these settings on a free port for the block."""
    url = engine.url.render_as_string(hide_password=False)
    settings = Settings(_env_file=None, database_url=url, redis_url=redis_url, secret_key=SECRET_KEY, **given)
    token = bootstrap_admin(engine, settings)
    with make_redis(settings) as redis, listening("127.0.0.1", 0) as bound:
        app = create_app(settings, engine, redis)
        server = http_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="live-api")
        thread.start()
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        authorization = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=address, headers=authorization, timeout=SECONDS, trust_env=False) as http:
            live = LiveApi(address, str(token), app.state.services.watch, server, thread, http)
            try:
                yield live
            finally:
                http.close()
                live.stop()


@contextmanager
def away(engine: Engine, name: str) -> Iterator[None]:
    """Let connections of that name find PostgreSQL away for the block: the present ones end, new ones are refused."""
    server = engine.url.set(database="postgres")
    refuse = f"ALTER DATABASE {engine.url.database} ALLOW_CONNECTIONS"
    ended = f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = '{engine.url.database}' AND application_name IN ('{name}', 'taskserver-listener')"""
    _on_server(server, f"{refuse} false")
    try:
        _on_server(server, ended)
        yield
    finally:
        _on_server(server, f"{refuse} true")


def _on_server(url: Any, statement: str) -> None:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(statement)
