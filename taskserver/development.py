"""The whole product in one directory: the embedded servers, a server, a worker and Flower, each started again when it dies.

`taskserver dev` runs it in the foreground, the demo for the length of its job. With the addresses of both servers given in
the settings nothing is embedded, and the same parts use those.
"""

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import SecretStr
from sqlalchemy import Engine

from schema.database import make_engine
from schema.errors import Unavailable
from schema.migration import migrate
from schema.settings import Settings
from taskserver.answering import answer_of
from taskserver.dev_directory import DevDirectory
from taskserver.embedded.lock import locked
from taskserver.embedded.places import Places
from taskserver.embedded.stack import EmbeddedStack
from taskserver.flower_part import FLOWER, address_of, choose_port, flower_part
from taskserver.principals import bootstrap_admin
from taskserver.queries.registry import known_workers
from taskserver.server import listening
from taskserver.supervision.part import Backoff, Part
from taskserver.supervision.supervisor import Supervisor
from taskserver.worker import worker_command, worker_environment

SERVER, WORKER = "server", "worker"
_LEAST_GRACE_SECONDS = 5.0  # even an idle worker takes about one to stop
_BACKOFF = Backoff(first_seconds=0.1, cap_seconds=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevelopmentOptions:
    """What the command line says."""

    directory: Path
    host: str = "127.0.0.1"
    port: int = 8080
    handlers: tuple[str, ...] = ()
    concurrency: int = os.cpu_count() or 1
    flower: bool = False
    flower_port: int | None = None  # None is the usual one, or any free one where that is taken


class Development:
    """A context manager: inside, all parts answer and the kinds are registered.

    Entering raises what the parts raise, each a `TaskserverError` with the cure in its message, and leaves nothing running.
    """

    url: str
    token: str
    flower_url: str | None = None
    supervisor: Supervisor

    def __init__(self, settings: Settings, options: DevelopmentOptions) -> None:
        self._given = settings
        self._options = options
        self._directory = DevDirectory(options.directory.resolve())
        self._flower_port: int | None = None
        self._open = ExitStack()

    @property
    def logs(self) -> Path:
        """Where each part writes its log."""
        return Places(self._directory.root).logs

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self._start(opening)
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def wait(self) -> None:
        """Block until a signal raises KeyboardInterrupt here."""
        self.supervisor.wait()

    def _start(self, opening: ExitStack) -> None:
        options, directory = self._options, self._directory
        settings = self._open_servers(opening)
        flower_port = self._flower_port
        if flower_port is not None and settings.flower_url is None:
            settings = settings.model_copy(update={"flower_url": address_of(options.host, flower_port)})
        engine = make_engine(settings.require_database(), name="taskserver-dev", pool_size=2)
        opening.callback(engine.dispose)
        migrate(engine)
        self.token = bootstrap_admin(engine, settings)
        directory.write_token(self.token)
        directory.port_file.unlink(missing_ok=True)
        environment = _environment(settings)
        self.supervisor.add(self._server_part(environment))
        self.supervisor.add(self._worker_part(environment, engine, settings))
        if flower_port is not None:
            self.flower_url = settings.flower_url
            self.supervisor.add(self._flower_part(settings, flower_port))
        self.supervisor.wait_ready(SERVER)
        self.supervisor.wait_ready(WORKER)
        if flower_port is not None:
            self.supervisor.wait_ready(FLOWER)
        self.url = self._server_url()
        opening.enter_context(directory.announced(self.url, environment))

    def _try_ports(self) -> None:
        """See that the ports can be had. Only when the directory is ours: a killed dev's server holds its port until then."""
        options = self._options
        if options.port:
            with listening(options.host, options.port):
                pass  # said here, in our words, rather than by the server's log
        if options.flower:
            self._flower_port = choose_port(options.host, options.flower_port, but=options.port)

    def _open_servers(self, opening: ExitStack) -> Settings:
        """Open what is not given, and return the settings that lead to all of it."""
        given, directory = self._given, self._directory
        if given.database_url is None or given.redis_url is None:
            stack = opening.enter_context(EmbeddedStack(directory.root, before_start=self._try_ports))
            self.supervisor = stack.supervisor
            database_url, redis_url = SecretStr(stack.database_url), SecretStr(stack.redis_url)
        else:
            database_url, redis_url = given.database_url, given.redis_url
            self.supervisor = opening.enter_context(self._supervisor_alone(opening))
        return given.model_copy(
            update={
                "database_url": given.database_url or database_url,
                "redis_url": given.redis_url or redis_url,
                "secret_key": given.secret_key or SecretStr(directory.secret_key()),
                "handlers": tuple(dict.fromkeys((*given.handlers, *self._options.handlers))),
                "data": directory.root,
            }
        )

    def _supervisor_alone(self, opening: ExitStack) -> Supervisor:
        places = Places(self._directory.root)
        opening.enter_context(locked(places.lock))
        places.make()
        supervisor = Supervisor(places.run)
        supervisor.end_orphans()
        self._try_ports()
        return supervisor

    def _server_part(self, environment: Mapping[str, str]) -> Part:
        options = self._options
        return Part(
            name=SERVER,
            argv=(
                *(sys.executable, "-P", "-m", "taskserver", "server", "--host", options.host),
                *("--port", str(options.port), "--port-file", str(self._directory.port_file)),
            ),
            log_file=self.logs / "server.log",
            env={**os.environ, **environment},
            is_ready=self._server_answers,
            backoff=_BACKOFF,
        )

    def _server_answers(self) -> bool:
        return self._directory.port_file.exists() and bool(
            answer_of(self._options.host, self._server_port(), "/readyz")
        )

    def _server_port(self) -> int:
        return int(self._directory.port_file.read_text())

    def _server_url(self) -> str:
        return f"http://{_bracketed(self._options.host)}:{self._server_port()}"

    def _flower_part(self, settings: Settings, port: int) -> Part:
        log_file = self.logs / "flower.log"
        return flower_part(
            settings, self.token, host=self._options.host, port=port, log_file=log_file, backoff=_BACKOFF
        )

    def _worker_part(self, environment: Mapping[str, str], engine: Engine, settings: Settings) -> Part:
        def takes_messages() -> bool:
            try:
                workers = known_workers(engine, silence_seconds=settings.dead_after_seconds).contents
            except Unavailable:
                return False
            ours = (socket.gethostname(), self.supervisor.pid(WORKER))
            return any((one.host, one.pid) == ours and one.alive and one.processes for one in workers)

        return Part(
            name=WORKER,
            argv=worker_command(name="dev", concurrency=self._options.concurrency),
            log_file=self.logs / "worker.log",
            env=worker_environment(settings, {**os.environ, **environment}),
            is_ready=takes_messages,
            ready_seconds=60.0,
            grace_seconds=max(_LEAST_GRACE_SECONDS, settings.cancel_grace_seconds),
            backoff=_BACKOFF,
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _environment(settings: Settings) -> dict[str, str]:
    """Return what the parts need to know, as variables of their environment."""
    secrets = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "SECRET_KEY": settings.secret_key,
        "ADMIN_TOKEN": settings.admin_token,
    }
    words = {name: value.get_secret_value() for name, value in secrets.items() if value is not None}
    words |= {"HANDLERS": ",".join(settings.handlers), "DATA": str(settings.data)}
    if settings.flower_url is not None:
        words["FLOWER_URL"] = settings.flower_url
    return {f"TASKSERVER_{name}": value for name, value in words.items()}
