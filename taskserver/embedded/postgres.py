"""A private PostgreSQL: its data directory, its settings, and the part that a supervisor keeps alive.

It listens on a unix socket in a directory that only its user (and root) can enter, and on nothing else; therefore whoever
reaches it is trusted. It is durable: fsync stays on. Settings are given on the command line, so they always are those of
this version of the product.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from taskserver.embedded.places import Places, private_directory
from taskserver.embedded.programs import PostgresPrograms, find_postgres, postgres_places
from taskserver.embedded.unprivileged import CURES, Runner, runnable, runner_for
from taskserver.supervision.ending import end_process
from taskserver.supervision.identity import ProcessIdentity, command_of
from taskserver.supervision.part import Backoff, Part, PartDidNotStart

NAME = "postgres"
USER = DATABASE = "taskserver"
PORT = 5432  # only part of the socket's name; given everywhere, or PGPORT would be asked
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # Many small updates: let checkpoints be rare, each first touch of a page after one costs a full page of WAL.
    "checkpoint_timeout": "15min",
    "max_wal_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] ",
}


class EmbeddedPostgres:
    """The PostgreSQL of one directory."""

    def __init__(
        self, places: Places, *, search: Iterable[Path] | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._data = places.postgres_data
        self._log_file = places.logs / "postgres.log"
        self._sockets = places.sockets / NAME
        self._settings = {**SETTINGS, **(settings or {})}
        self._runner = runner_for(self._data, places.sockets)
        programs = find_postgres(postgres_places() if search is None else search, _major_of(self._data))
        self._programs: PostgresPrograms = runnable(programs, self._runner)

    @property
    def url(self) -> str:
        """The address for SQLAlchemy."""
        return f"postgresql+psycopg://{USER}@/{DATABASE}?host={self._sockets}&port={PORT}"

    def initialise(self) -> None:
        """Make the socket directory and, the first time, the data directory: whole or not at all.

        Raises:
            PartDidNotStart: initdb failed; its last words are in the message.
        """
        private_directory(self._sockets, owner=self._runner.uid, group=self._runner.gid)
        if not self._data.exists():
            _make_data(self._data, self._programs, self._runner)

    def part(self) -> Part:
        """Describe the server to a supervisor."""
        settings = {**self._settings, "unix_socket_directories": str(self._sockets), "port": str(PORT)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Part(
            name=NAME,
            argv=(*self._runner.prefix, str(self._programs.postgres), "-D", str(self._data), *options),
            log_file=self._log_file,
            env=_clean_environment(),
            cwd=Path("/"),
            is_ready=self._is_ready,
            prepare=self._clear_stale_locks,
            ready_seconds=120.0,  # recovery after a crash reads up to max_wal_size
            stop_signal=signal.SIGINT,  # the fast shutdown; SIGTERM would wait for clients to leave
            grace_seconds=30.0,
            adoptable=True,
            backoff=Backoff(first_seconds=0.2, cap_seconds=5.0),
        )

    def _is_ready(self) -> bool:
        try:
            with psycopg.connect(
                host=str(self._sockets), port=PORT, user=USER, dbname="postgres", connect_timeout=2, autocommit=True
            ) as connection:
                if connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).rowcount == 0:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError:  # not listening yet, or still recovering
            return False
        return True

    def _clear_stale_locks(self) -> None:
        """Remove the locks of a killed server whose pid is somebody else's now, which PostgreSQL itself takes for a server.

        A dead pid it sees through. A live server on this data that no pid file of ours names (we were killed right
        between its start and the note) is ended.
        """
        for lock in (self._data / "postmaster.pid", self._sockets / f".s.PGSQL.{PORT}.lock"):
            if not lock.exists():
                continue
            first_line = lock.read_text().partition("\n")[0]
            holder = ProcessIdentity.of(int(first_line)) if first_line.isdecimal() else None
            if holder is None:
                continue
            if str(self._data) in command_of(holder.pid):
                end_process(holder, stop_signal=signal.SIGINT)
            else:
                lock.unlink()


def _make_data(data: Path, programs: PostgresPrograms, runner: Runner) -> None:
    fresh = Path(tempfile.mkdtemp(prefix="postgres-new-", dir=data.parent))
    os.chown(fresh, runner.uid, runner.gid)
    command = [*runner.prefix, str(programs.initdb), "-D", str(fresh), "-U", USER, "--auth=trust"]
    answer = subprocess.run(  # noqa: S603 (our own words)
        [*command, "--encoding=UTF8", "--locale=C", "--no-instructions"],
        capture_output=True,
        text=True,
        check=False,
        env=_clean_environment(),
        cwd="/",
    )
    if answer.returncode != 0:
        shutil.rmtree(fresh)
        last_words = "\n".join((answer.stdout + answer.stderr).strip().splitlines()[-5:])
        raise PartDidNotStart(f"PostgreSQL could not make its data directory {data}; {CURES}. It said:\n{last_words}")
    fresh.rename(data)
    for abandoned in data.parent.glob("postgres-new-*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # an initdb of a killed run may still be writing; next time then


def _major_of(data: Path) -> int | None:
    return int((data / "PG_VERSION").read_text()) if data.exists() else None


def _clean_environment() -> dict[str, str]:
    # PGDATA, PGPORT, PGOPTIONS and their like are meant for the user's other servers.
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
