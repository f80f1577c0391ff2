"""The server process: API, dispatcher and listener, until a signal ends it.

The composition root of `taskserver server`. Several may run on the same database and broker; they need no leader. On
SIGTERM long polls are answered, requests under way end, and only then do the threads behind them stop.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine
from structlog import get_logger

from schema.celeryapp import make_celery, make_redis
from schema.collection import settle_collector
from schema.database import make_engine
from schema.errors import Conflict, Unavailable
from schema.listening import Listener
from schema.migration import head_revision
from schema.settings import Settings
from schema.transitions.inserted import INSERTED_CHANNEL
from schema.transitions.progress import STARTABLE_CHANNEL
from taskserver.api.app import create_app
from taskserver.api.http_connection import HttpConnection
from taskserver.dispatcher.intake import Intake
from taskserver.dispatcher.loop import Dispatcher
from taskserver.principals import bootstrap_admin
from taskserver.queries.health import database_revision
from taskserver.supervision.supervisor import interrupted_by_signals

_SHUTDOWN_SECONDS = 5  # for requests under way
_BACKLOG = 1024
_DISPATCHER_POOL = 5  # its thread uses one or two, the intake one, the rest is for /readyz
# The dispatcher's thread waits for an answer after each short step. With the default of 5 ms it would get the interpreter back
# only when a request that writes a large answer is done.
_SWITCH_SECONDS = 0.0005
_log = get_logger("taskserver.server")


class AddressInUse(Conflict):
    """Another process listens there."""


class NotMigrated(Unavailable):
    """The database has another schema than this version needs."""


@dataclass(frozen=True, slots=True)
class Engines:
    """The connections of one process: requests may use up theirs, and the dispatcher and /readyz go on with their own."""

    api: Engine
    dispatcher: Engine

    def dispose(self) -> None:
        """Close all connections."""
        self.api.dispose()
        self.dispatcher.dispose()


def serve(settings: Settings, *, host: str, port: int, port_file: Path | None = None) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        settings: Must name database, broker and secret key.
        host: The address to listen on.
        port: 0 takes any free one.
        port_file: Told the port; with port 0 a server that is started again takes the same one.

    Raises:
        InvalidArgument: A setting is missing.
        AddressInUse: The port is taken.
        NotMigrated: `taskserver migrate` has not been run.
        Unavailable: PostgreSQL does not answer.

    """
    url = settings.require_database()
    settings.require_redis()
    settings.require_secret_key()
    with interrupted_by_signals(), listening(host, port, port_file) as listener:
        engines = Engines(
            make_engine(url, name="taskserver-server", pool_size=settings.database_pool),
            make_engine(url, name="taskserver-dispatcher", pool_size=_DISPATCHER_POOL),
        )
        try:
            _require_migrated(engines.api)
            bootstrap_admin(engines.api, settings)
            _run(settings, engines, listener)
        finally:
            engines.dispose()


@contextmanager
def listening(host: str, port: int, port_file: Path | None = None) -> Iterator[socket.socket]:
    """Bind the address for the block; connections are accepted once a server runs on the socket.

    Raises:
        AddressInUse: The port is taken, or the host is not one of this machine's.

    """
    wanted = port or _noted_port(port_file)
    try:
        bound = _bind(host, wanted)
    except OSError as error:
        raise AddressInUse(
            f"cannot listen on {host}:{wanted} ({error.strerror or error}): choose another --port or --host, or end what uses it",
            target=f"{host}:{wanted}",
        ) from error
    with bound:
        if port_file is not None:
            fresh = port_file.with_suffix(".new")
            fresh.write_text(f"{bound.getsockname()[1]}\n")
            fresh.replace(port_file)
        yield bound


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _noted_port(port_file: Path | None) -> int:
    if port_file is None or not port_file.exists():
        return 0
    noted = port_file.read_text().strip()
    return int(noted) if noted.isdecimal() else 0


def _require_migrated(engine: Engine) -> None:
    revision, needed = database_revision(engine), head_revision()
    if revision != needed:
        raise NotMigrated(
            f"the database is at revision {revision or 'none'}, this version needs {needed}: run `taskserver migrate`"
        )


def _run(settings: Settings, engines: Engines, bound: socket.socket) -> None:
    name = f"{socket.gethostname()}:{os.getpid()}"
    with ExitStack() as running:
        deaths = running.enter_context(_ended_by_dead_threads())
        redis = running.enter_context(make_redis(settings))
        dispatcher = Dispatcher(engines.dispatcher, make_celery(settings), redis, settings, name=name)
        intake = Intake(engines.dispatcher, settings.limits)
        listener = Listener(
            settings.require_database(),
            {STARTABLE_CHANNEL: lambda _: dispatcher.wake(), INSERTED_CHANNEL: lambda _: intake.wake()},
        )
        app = create_app(
            settings,
            engines.api,
            redis,
            health_engine=engines.dispatcher,
            after_submission=dispatcher.publish_soon,
        )
        settle_collector()
        sys.setswitchinterval(_SWITCH_SECONDS)
        dispatcher.start()
        running.callback(dispatcher.stop)
        intake.start()
        running.callback(intake.stop)
        listener.start()
        running.callback(listener.stop)
        try:
            http_server(app).run(sockets=[bound])
        finally:
            if deaths:
                raise SystemExit(1)


@contextmanager
def _ended_by_dead_threads() -> Iterator[list[str]]:
    """End the process when a thread dies of an error: a server without its dispatcher must not seem to be well.

    Who supervises it starts it again. Yields the names of the dead.
    """
    deaths: list[str] = []

    def end(died: threading.ExceptHookArgs) -> None:
        name = died.thread.name if died.thread is not None else "a thread"
        error = (died.exc_type, died.exc_value or died.exc_type(), died.exc_traceback)
        _log.critical("thread died, the server ends", action="thread_died", thread=name, exc_info=error)
        deaths.append(name)
        signal.raise_signal(signal.SIGTERM)

    before, threading.excepthook = threading.excepthook, end
    try:
        yield deaths
    finally:
        threading.excepthook = before


class _HttpServer(uvicorn.Server):
    """uvicorn, which else would wait for the long polls to end by themselves."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.services.watch.stop_waiting()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def http_server(app: FastAPI) -> uvicorn.Server:
    """Return the HTTP server of the application; its `run` ends with a signal, or `should_exit`."""
    return _HttpServer(
        uvicorn.Config(
            app,
            http=HttpConnection,
            log_config=None,
            access_log=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            server_header=False,
        )
    )
