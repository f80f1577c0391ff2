import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from schema.errors import InvalidArgument
from schema.settings import Settings
from taskserver import flower_part as module
from taskserver.flower_part import address_of, choose_port, flower_part
from taskserver.server import AddressInUse
from taskserver.supervision.part import Backoff

HOST = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("TASKSERVER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_usual_port_makes_way_where_it_is_taken(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr(module, "_USUAL_PORT", taken)

    assert choose_port(HOST, None, but=0) not in {0, taken}


def test_the_usual_port_makes_way_for_the_servers(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    free = choose_port(HOST, 0, but=0)
    monkeypatch.setattr(module, "_USUAL_PORT", free)

    assert choose_port(HOST, None, but=0) == free
    assert choose_port(HOST, None, but=free) != free


def test_a_given_port_that_is_taken_is_refused_by_its_name(taken: int) -> None:
    for but in (0, taken):
        with pytest.raises(AddressInUse, match=f"Flower cannot listen on {HOST}:{taken}: choose another --flower-port"):
            choose_port(HOST, taken, but=but)


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("0::0", "[::1]"),
        ("fd00::7", "[fd00::7]"),
        ("10.0.0.7", "10.0.0.7"),
        ("ops.example", "ops.example"),
    ],
)
def test_its_address_is_one_by_which_one_gets_there(host: str, found: str) -> None:
    assert address_of(host, 5555) == f"http://{found}:5555"


def test_of_the_settings_it_is_given_no_secret_but_its_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "SECRET_KEY", "ADMIN_TOKEN"):
        monkeypatch.setenv(f"TASKSERVER_{name}", "hunter2")
    settings = Settings.model_construct(redis_url=SecretStr("redis://h/0"), flower_url="http://h:1/flower")

    part = flower_part(settings, "a,b:c", host=HOST, port=1, log_file=tmp_path / "log", backoff=Backoff())

    assert part.env is not None
    assert "hunter2" not in part.env.values()
    assert {name: value for name, value in part.env.items() if name.startswith("TASKSERVER_")} == {
        "TASKSERVER_REDIS_URL": "redis://h/0",
        "TASKSERVER_FLOWER_URL": "http://h:1/flower",
        "TASKSERVER_FLOWER_AUTH": "admin:a,b:c",
    }
    assert not any("a,b:c" in word for word in part.argv)
    assert not part.is_ready()


@pytest.mark.parametrize("login", ["admin", "admin:", ":secret", ":"])
def test_a_login_without_name_or_password_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, login: str) -> None:
    monkeypatch.setenv("TASKSERVER_FLOWER_AUTH", login)

    with pytest.raises(InvalidArgument, match="TASKSERVER_FLOWER_AUTH must be a login like name:password") as caught:
        Settings.load()
    assert "secret" not in str(caught.value)


def test_a_login_must_be_given() -> None:
    with pytest.raises(InvalidArgument, match="TASKSERVER_FLOWER_AUTH is not set"):
        Settings.load().require_flower_auth()


@pytest.mark.parametrize("url", ["flower", "ftp://h", "http://", "http://h/?a=b", "https://h/flower#tasks"])
def test_an_address_of_flower_that_nobody_could_follow_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TASKSERVER_FLOWER_URL", url)

    with pytest.raises(InvalidArgument, match="TASKSERVER_FLOWER_URL must be an address like"):
        Settings.load()


def test_an_address_of_flower_is_taken_without_its_last_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSERVER_FLOWER_URL", "https://ops.example/flower/")

    assert Settings.load().flower_url == "https://ops.example/flower"
