import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
import sqlalchemy
from celery import Celery

from schema.errors import Conflict
from taskserver.embedded.lock import DirectoryInUse
from taskserver.embedded.places import DirectoryUnsafe, Places
from taskserver.embedded.stack import EmbeddedStack, Search
from taskserver.supervision.identity import PidRecord, ProcessIdentity

KILLED = """
import os, sys
from pathlib import Path
from taskserver.embedded.stack import EmbeddedStack
from taskserver.supervision.part import Part

directory = Path(sys.argv[1])
with EmbeddedStack(directory) as stack:
    part = Part(name="other", argv=("sleep", "300"), log_file=directory / "log" / "other.log")
    stack.supervisor.start(part)
    print("ready", *(stack.supervisor.pid(name) for name in ("postgres", "redis", "other")), flush=True)
    stack.supervisor.wait()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("stack") / "data") as opened:
        yield opened


def ask(stack: EmbeddedStack, statement: str) -> object:
    engine = sqlalchemy.create_engine(stack.database_url)
    try:
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            return result.scalar_one() if result.returns_rows else None
    finally:
        engine.dispose()


def ping(stack: EmbeddedStack) -> bool:
    with redis.Redis.from_url(stack.redis_client_url) as client:
        return bool(client.ping())


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def kill_and_wait_for_the_next(stack: EmbeddedStack, name: str) -> None:
    killed = stack.supervisor.pid(name)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: stack.supervisor.pid(name) not in {None, killed})
    stack.supervisor.wait_ready(name)


def processes_below(directory: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(directory) in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.fixture
def killed_run(tmp_path: Path) -> Iterator[Callable[[], dict[str, int]]]:
    """A stack whose supervising process is killed; gives the pids that it left."""
    children = []

    def run() -> dict[str, int]:
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout is not None
        words = next(line.split() for line in child.stdout if line.startswith("ready "))
        child.kill()
        child.wait()
        return dict(zip(("postgres", "redis", "other"), map(int, words[1:]), strict=True))

    yield run
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def test_the_database_is_utf8_sorted_by_bytes_and_durable(stack: EmbeddedStack) -> None:
    assert ask(stack, "SELECT current_user || ' ' || current_database()") == "taskserver taskserver"
    assert ask(stack, "SHOW server_encoding") == "UTF8"
    assert ask(stack, "SELECT datcollate FROM pg_database WHERE datname = 'taskserver'") == "C"
    assert ask(stack, "SHOW fsync") == "on"
    assert ask(stack, "SHOW synchronous_commit") == "on"


def test_nothing_listens_on_the_network_and_the_sockets_are_private(stack: EmbeddedStack) -> None:
    for name in ("postgres", "redis"):
        pid = stack.supervisor.pid(name)
        assert pid is not None
        assert not psutil.Process(pid).net_connections(kind="inet")
    sockets = Places(stack.directory).sockets

    assert stat.S_IMODE((sockets / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE((sockets / "redis.sock").stat().st_mode) == 0o700


def test_celery_uses_the_same_address_for_the_broker_and_for_results(stack: EmbeddedStack) -> None:
    with Celery(broker=stack.redis_url, backend=stack.redis_url) as app:
        with app.connection() as connection:
            connection.ensure_connection(max_retries=1)
        assert app.backend.client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert app.backend.client.config_get("save") == {"save": ""}
        app.backend.client.close()


def test_postgres_comes_back_with_its_data_after_kill_9(stack: EmbeddedStack) -> None:
    ask(stack, "CREATE TABLE kept AS SELECT 17 AS number")

    kill_and_wait_for_the_next(stack, "postgres")

    assert ask(stack, "SELECT number FROM kept") == 17


def test_redis_comes_back_after_kill_9(stack: EmbeddedStack) -> None:
    kill_and_wait_for_the_next(stack, "redis")

    assert ping(stack)


def test_a_second_stack_on_the_directory_is_refused_and_told_who_has_it(stack: EmbeddedStack) -> None:
    with (
        pytest.raises(DirectoryInUse, match=rf"in use by process {os.getpid()}") as refusal,
        EmbeddedStack(stack.directory),
    ):
        pass

    assert isinstance(refusal.value, Conflict)
    assert ping(stack)
    assert ask(stack, "SELECT 1") == 1


def test_stacks_in_different_directories_do_not_meet(stack: EmbeddedStack, tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "other") as other:
        ask(other, "CREATE TABLE only_here (number int)")

        assert ask(stack, "SELECT to_regclass('only_here') IS NULL") is True


def test_the_next_stack_takes_healthy_servers_over_and_ends_the_rest(
    killed_run: Callable[[], dict[str, int]], tmp_path: Path
) -> None:
    left = killed_run()

    with EmbeddedStack(tmp_path / "data") as stack:
        assert {name: stack.supervisor.pid(name) for name in ("postgres", "redis")} == {
            name: left[name] for name in ("postgres", "redis")
        }
        assert ProcessIdentity.of(left["other"]) is None
        ask(stack, "CREATE TABLE kept AS SELECT 17 AS number")
        kill_and_wait_for_the_next(stack, "postgres")
        assert ask(stack, "SELECT number FROM kept") == 17
        assert ping(stack)

    assert processes_below(tmp_path) == []


def test_the_state_survives_kill_9_of_everything(killed_run: Callable[[], dict[str, int]], tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "data") as stack:
        ask(stack, "CREATE TABLE kept AS SELECT 17 AS number")
    for pid in killed_run().values():
        os.kill(pid, signal.SIGKILL)

    with EmbeddedStack(tmp_path / "data") as stack:
        assert ask(stack, "SELECT number FROM kept") == 17
        assert ping(stack)

    assert processes_below(tmp_path) == []


def test_servers_that_hang_are_replaced(killed_run: Callable[[], dict[str, int]], tmp_path: Path) -> None:
    left = killed_run()
    os.kill(left["redis"], signal.SIGSTOP)

    with EmbeddedStack(tmp_path / "data") as stack:
        assert stack.supervisor.pid("redis") != left["redis"]
        assert ping(stack)

    assert processes_below(tmp_path) == []


def test_a_server_that_no_pid_file_names_is_ended(killed_run: Callable[[], dict[str, int]], tmp_path: Path) -> None:
    left = killed_run()
    (tmp_path / "data" / "run" / "postgres.pid").unlink()

    with EmbeddedStack(tmp_path / "data") as stack:
        assert stack.supervisor.pid("postgres") != left["postgres"]
        assert ask(stack, "SELECT 1") == 1

    assert processes_below(tmp_path) == []


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path is short enough for sockets to be in it."""
    with tempfile.TemporaryDirectory(prefix="ts") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_locks_of_postgres_whose_pid_is_somebody_elses_now_do_not_stop_it(short_path: Path) -> None:
    with EmbeddedStack(short_path / "data") as stack:
        places = Places(stack.directory)
        data, socket_lock = places.postgres_data, places.sockets / "postgres" / ".s.PGSQL.5432.lock"
        owner = data.stat()
        locks = {path: path.read_text() for path in (data / "postmaster.pid", socket_lock)}
    # A live process of the user that PostgreSQL runs as: the only kind that it takes for a server.
    stranger = subprocess.Popen(["sleep", "300"], user=owner.st_uid, group=owner.st_gid)
    for path, text in locks.items():
        path.write_text(text.replace(text.partition("\n")[0], str(stranger.pid)))
        os.chown(path, owner.st_uid, owner.st_gid)
    PidRecord(ProcessIdentity(stranger.pid, "an earlier moment"), "").write(places.run / "postgres.pid")

    with EmbeddedStack(short_path / "data") as stack:
        assert ask(stack, "SELECT 1") == 1

    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize("name", ["d" * 120, "with a space, a comma and 100% ünïcode?"], ids=["deep", "odd"])
def test_a_directory_that_sockets_cannot_be_in_works_too(tmp_path: Path, name: str) -> None:
    with EmbeddedStack(tmp_path / name) as stack:
        sockets = Places(stack.directory).sockets
        assert not sockets.is_relative_to(tmp_path)
        assert ask(stack, "SELECT 1") == 1
        assert ping(stack)
        with Celery(broker=stack.redis_url) as app, app.connection() as connection:
            connection.ensure_connection(max_retries=1)

    assert not sockets.exists()


def test_a_socket_directory_that_somebody_else_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o777)
    (tmp_path / "run").chmod(0o777)

    with pytest.raises(DirectoryUnsafe, match=r"run must be a directory .* remove it"), EmbeddedStack(tmp_path):
        pass


def test_programs_below_a_closed_directory_are_run_too(stack: EmbeddedStack, tmp_path: Path) -> None:
    pid = stack.supervisor.pid("postgres")
    assert pid is not None
    tree = Path(psutil.Process(pid).exe()).parents[1]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    ignored = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(tree, closed / tree.parent.name / tree.name, symlinks=True, ignore=ignored)
    libraries = tree.parent.with_name(tree.parent.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, closed / libraries.name, symlinks=True)

    search = Search(postgres=[closed / tree.parent.name / tree.name / "bin"])
    with EmbeddedStack(tmp_path / "data", search=search) as second:
        assert ask(second, "SELECT 1") == 1
        program = psutil.Process(second.supervisor.pid("postgres")).exe()
        # Only root runs them as somebody else, to whom the directory is closed.
        assert Path(program).is_relative_to(closed) == (os.geteuid() != 0)


def test_leaving_ends_everything_and_a_second_start_finds_the_data(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "data") as stack:
        ask(stack, "CREATE TABLE kept AS SELECT 17 AS number")

    assert processes_below(tmp_path) == []

    with EmbeddedStack(tmp_path / "data") as stack:
        assert ask(stack, "SELECT number FROM kept") == 17


def test_settings_of_the_users_other_servers_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "6543", "PGDATA": "/nowhere", "PGHOST": "nowhere", "PGUSER": "nobody"}.items():
        monkeypatch.setenv(name, value)

    with EmbeddedStack(tmp_path / "data") as stack:
        assert ask(stack, "SELECT current_user") == "taskserver"


def test_a_failed_start_leaves_nothing_running_and_the_directory_free(tmp_path: Path) -> None:
    broken = EmbeddedStack(tmp_path / "data", postgres_settings={"no_such_setting": "1"})

    with pytest.raises(Exception, match=r"(?s)postgres did not start .*no_such_setting"), broken:
        pass

    assert processes_below(tmp_path) == []
    with (
        EmbeddedStack(tmp_path / "data") as stack,
        psycopg.connect(stack.database_url.replace("+psycopg", "")) as connection,
    ):
        assert connection.info.server_version >= 140000
