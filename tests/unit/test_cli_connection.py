from collections.abc import Iterator
from pathlib import Path

import pytest

from schema.errors import InvalidArgument
from schema.settings import Settings
from taskserver.checks import shown_address
from taskserver.cli.connection import connect
from taskserver.client import ServerUnreachable
from taskserver.dev_directory import DevDirectory, settings_of_dev

ENVIRONMENT = {
    "TASKSERVER_DATABASE_URL": "postgresql+psycopg://taskserver@/taskserver?host=/run/x&port=5432",
    "TASKSERVER_REDIS_URL": "redis+socket:///run/x/redis.sock",
    "TASKSERVER_SECRET_KEY": "a=b",
    "TASKSERVER_HANDLERS": "one,two",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "TOKEN", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DATA", "HANDLERS"):
        monkeypatch.delenv(f"TASKSERVER_{name}", raising=False)


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[DevDirectory]:
    directory = DevDirectory(tmp_path / ".taskserver")
    directory.root.mkdir()
    directory.write_token("dev-token")
    with directory.announced("http://127.0.0.1:1234", ENVIRONMENT):
        yield directory


@pytest.mark.usefixtures("dev")
def test_the_dev_here_is_used_without_settings() -> None:
    with connect(None) as server:
        assert server.url == "http://127.0.0.1:1234"


@pytest.mark.usefixtures("dev")
def test_settings_come_before_the_dev_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSERVER_URL", "https://tasks.example/")
    monkeypatch.setenv("TASKSERVER_TOKEN", "t")

    with connect(None) as server:
        assert server.url == "https://tasks.example"


def test_a_given_directory_comes_before_settings(dev: DevDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSERVER_URL", "https://tasks.example")
    monkeypatch.setenv("TASKSERVER_TOKEN", "t")

    with connect(dev.root) as server:
        assert server.url == "http://127.0.0.1:1234"


@pytest.mark.usefixtures("dev")
def test_the_token_of_the_dev_is_never_sent_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSERVER_URL", "https://tasks.example")

    with pytest.raises(InvalidArgument, match="TASKSERVER_TOKEN"):
        connect(None)


def test_without_anything_the_error_says_what_to_set() -> None:
    with pytest.raises(ServerUnreachable, match="TASKSERVER_URL"):
        connect(None)


@pytest.mark.parametrize("url", ["tasks.example", "ftp://tasks.example", "http://", "http://[::1"])
def test_an_address_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TASKSERVER_URL", url)
    monkeypatch.setenv("TASKSERVER_TOKEN", "t")

    with pytest.raises(InvalidArgument, match="not the address of a server"):
        connect(None)


def test_what_a_dev_announces_is_private_and_gone_when_it_ends(tmp_path: Path) -> None:
    directory = DevDirectory(tmp_path)

    with directory.announced("http://127.0.0.1:1", ENVIRONMENT):
        modes = {one.name: one.stat().st_mode & 0o777 for one in tmp_path.iterdir()}

    assert modes == {"url": 0o600, "dev.env": 0o600}
    assert list(tmp_path.iterdir()) == []


def test_the_secret_key_is_made_once_and_private(tmp_path: Path) -> None:
    directory = DevDirectory(tmp_path)

    first, second = directory.secret_key(), directory.secret_key()

    assert first == second
    assert len(first) >= 32
    assert (tmp_path / "secret-key").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("dev")
def test_check_finds_the_servers_of_the_dev_here() -> None:
    settings = settings_of_dev(Settings.load(), None)

    assert settings.require_database() == ENVIRONMENT["TASKSERVER_DATABASE_URL"]
    assert settings.require_redis() == ENVIRONMENT["TASKSERVER_REDIS_URL"]
    assert settings.require_secret_key() == "a=b"
    assert settings.handlers == ("one", "two")


@pytest.mark.usefixtures("dev")
def test_check_keeps_to_settings_that_name_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSERVER_REDIS_URL", "redis://elsewhere")

    settings = settings_of_dev(Settings.load(), None)

    assert settings.require_redis() == "redis://elsewhere"
    assert settings.database_url is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://app:secret@db:5432/app", "postgresql+psycopg://app:***@db:5432/app"),
        ("postgresql://app@/app?host=%2Frun%2Fpg&password=secret", "postgresql://app@/app?host=/run/pg&password=***"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("rediss://user:p@ss@host/1", "rediss://user:***@host/1"),
    ],
)
def test_addresses_are_shown_with_their_secrets_masked(url: str, shown: str) -> None:
    assert shown_address(url) == shown
