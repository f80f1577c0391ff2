import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from schema.errors import InvalidArgument
from schema.settings import Settings

PASSWORD = "s3cret-word"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:

    for name in [name for name in os.environ if name.startswith("TASKSERVER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _set(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"TASKSERVER_{name}", value)


def test_without_any_variable_the_defaults_hold() -> None:
    settings = Settings.load()

    assert settings.database_url is None
    assert settings.handlers == ()
    assert settings.limits.subtasks == 100_000


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_any_postgresql_url_is_read_with_our_driver(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    _set(monkeypatch, DATABASE_URL=f"{scheme}://u:{PASSWORD}@h:5432/d?sslmode=require")

    assert Settings.load().require_database() == f"postgresql+psycopg://u:{PASSWORD}@h:5432/d?sslmode=require"


@pytest.mark.parametrize("url", ["mysql://u@h/d", "not a url", "sqlite:///file"])
def test_another_database_is_refused_by_its_variables_name(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    _set(monkeypatch, DATABASE_URL=url)

    with pytest.raises(InvalidArgument, match="TASKSERVER_DATABASE_URL") as caught:
        Settings.load()
    assert [problem.field for problem in caught.value.sub_errors] == ["TASKSERVER_DATABASE_URL"]


@pytest.mark.parametrize(
    "url", ["redis://h:6379/0", f"rediss://:{PASSWORD}@h/1", "redis+socket:///run/redis.sock?virtual_host=2"]
)
def test_the_brokers_urls_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    _set(monkeypatch, REDIS_URL=url)

    assert Settings.load().require_redis() == url


def test_another_broker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, REDIS_URL="amqp://h")

    with pytest.raises(InvalidArgument, match="TASKSERVER_REDIS_URL must begin with redis://"):
        Settings.load()


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, DATABASE_URL="mysql://h/d", BEAT_SECONDS="0", MAX_SUBTASKS="many")

    with pytest.raises(InvalidArgument) as caught:
        Settings.load()

    fields = {problem.field for problem in caught.value.sub_errors}
    assert fields == {"TASKSERVER_DATABASE_URL", "TASKSERVER_BEAT_SECONDS", "TASKSERVER_MAX_SUBTASKS"}


def test_no_secret_is_ever_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(
        monkeypatch,
        DATABASE_URL=f"postgresql://u:{PASSWORD}@h/d",
        REDIS_URL=f"redis://:{PASSWORD}@h/0",
        SECRET_KEY=PASSWORD,
        ADMIN_TOKEN=PASSWORD,
        TOKEN=PASSWORD,
    )
    settings = Settings.load()

    assert PASSWORD not in repr(settings) + str(settings) + settings.model_dump_json()


def test_no_secret_is_printed_when_a_url_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, DATABASE_URL=f"mysql://u:{PASSWORD}@h/d", REDIS_URL=f"amqp://:{PASSWORD}@h")

    with pytest.raises(InvalidArgument) as caught:
        Settings.load()

    assert PASSWORD not in repr(caught.value) + str(caught.value) + repr(caught.value.sub_errors)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, HANDLERS="shop.handlers, host.handlers ,", CALLBACK_HOSTS="a:80,b")

    settings = Settings.load()

    assert settings.handlers == ("shop.handlers", "host.handlers")
    assert settings.callback_hosts == ("a:80", "b")


def test_a_file_gives_what_the_environment_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TASKSERVER_URL=http://file\nTASKSERVER_HANDLERS=from.file\nOTHER=x\n")
    _set(monkeypatch, HANDLERS="from.environment")

    settings = Settings.load()

    assert (settings.url, settings.handlers) == ("http://file", ("from.environment",))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().beat_seconds = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("require_database", "TASKSERVER_DATABASE_URL"),
        ("require_redis", "TASKSERVER_REDIS_URL"),
        ("require_secret_key", "TASKSERVER_SECRET_KEY"),
    ],
)
def test_what_is_missing_is_named_with_the_way_out(method: str, name: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"{name} is not set.*taskserver dev"):
        getattr(Settings.load(), method)()


@pytest.mark.parametrize("name", ["ADMIN_TOKEN", "SECRET_KEY", "DATABASE_URL", "REDIS_URL"])
def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _set(monkeypatch, **{name: ""})

    assert getattr(Settings.load(), name.lower()) is None
