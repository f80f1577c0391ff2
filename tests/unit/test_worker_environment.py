"""What of the settings a worker's environment holds, and what its handlers find there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from schema.errors import InvalidArgument
from schema.settings import Settings, secret_variables
from schema.signing import signing_key
from taskserver.worker import worker_environment
from workers.environment import worker_settings

SECRETS = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ADMIN_TOKEN", "CALLBACK_KEY", "TOKEN", "FLOWER_AUTH"}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.upper().startswith("TASKSERVER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    worker_settings.cache_clear()
    yield
    worker_settings.cache_clear()


def _ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.upper().startswith("TASKSERVER_")}


def test_what_is_secret_follows_from_the_settings() -> None:
    every = {f"TASKSERVER_{name.upper()}" for name in Settings.model_fields}

    assert secret_variables(every | {"PATH", "SECRET_KEY"}) == {f"TASKSERVER_{name}" for name in SECRETS}


def test_handlers_find_no_secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "TASKSERVER_DATABASE_URL": "postgresql://u:hunter2@h/d",
        "taskserver_redis_url": "redis://:hunter2@h/0",
        "TASKSERVER_SECRET_KEY": "hunter2",
        "TASKSERVER_ADMIN_TOKEN": "hunter2",
        "TASKSERVER_CALLBACK_KEY": "hunter2",
        "TASKSERVER_FLOWER_AUTH": "admin:hunter2",
    }
    kept = {"TASKSERVER_HANDLERS": "shop", "TASKSERVER_URL": "http://h", "TASKSERVER_TOKEN": "for the handlers"}
    for name, value in {**given, **kept}.items():
        monkeypatch.setenv(name, value)

    settings = worker_settings()

    assert (settings.require_redis(), settings.require_callback_key()) == ("redis://:hunter2@h/0", "hunter2")
    assert _ours() == kept
    assert worker_settings() is settings


def test_a_worker_is_given_the_key_of_callbacks_and_not_what_it_is_made_of() -> None:
    settings = Settings(secret_key=SecretStr("hunter2"), admin_token=SecretStr("hunter3"))
    given = {
        "PATH": "/bin",
        "TASKSERVER_SECRET_KEY": "hunter2",
        "taskserver_admin_token": "hunter3",
        "TASKSERVER_FLOWER_AUTH": "a:hunter4",
        "TASKSERVER_REDIS_URL": "redis://h/0",
    }

    environment = worker_environment(settings, given)

    assert environment == {
        "PATH": "/bin",
        "TASKSERVER_REDIS_URL": "redis://h/0",
        "TASKSERVER_CALLBACK_KEY": signing_key("hunter2").decode(),
    }


def test_a_key_of_callbacks_that_is_given_goes_before_the_one_that_is_made() -> None:
    settings = Settings(secret_key=SecretStr("hunter2"), callback_key=SecretStr("given"))

    assert settings.require_callback_key() == "given"
    assert worker_environment(settings, {}) == {"TASKSERVER_CALLBACK_KEY": "given"}


def test_without_either_key_a_worker_runs_and_a_callback_says_what_is_missing() -> None:
    settings = Settings()

    assert worker_environment(settings, {"PATH": "/bin"}) == {"PATH": "/bin"}
    with pytest.raises(InvalidArgument, match="TASKSERVER_CALLBACK_KEY is not set"):
        settings.require_callback_key()
