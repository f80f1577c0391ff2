"""The compose file: every part, no secret of its own, and commands that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from schema.settings import Settings
from taskserver.__main__ import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "taskserver"]
SECRETS = {"POSTGRES_PASSWORD", "TASKSERVER_SECRET_KEY", "TASKSERVER_ADMIN_TOKEN", "TASKSERVER_FLOWER_AUTH"}
OPTIONS = {"TASKSERVER_FLOWER_URL", "TASKSERVER_HANDLERS", "TASKSERVER_CALLBACK_HOSTS", "TASKSERVER_CALLBACK_KEY"}
TAKEN = re.findall(r"\$\{(\w+)(:[?-])([^}]*)\}", TEXT)


def test_every_part_is_there() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "server", "worker", "flower"}
    assert OURS == ["migrate", "server", "worker", "flower"]
    assert SERVICES["server"]["deploy"]["replicas"] == 2


def test_every_secret_must_be_given_and_what_to_give_is_said() -> None:
    assert {name for name, _, _ in TAKEN} == SECRETS | OPTIONS
    assert TEXT.count("${") == len(TAKEN)
    for name, otherwise, text in TAKEN:
        if name in SECRETS:
            assert otherwise == ":?", f"{name} has a default"
            assert text.startswith("set it to "), name


def test_no_secret_is_written_down() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|AUTH", name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
            if name.endswith("_KEY"):
                assert re.fullmatch(r"\$\{\w+:(\?[^}]+|-)\}", value), name
    assert re.findall(r"://\w*:([^@/ ]*)@", re.sub(r"\$\{[^}]*\}", "GIVEN", TEXT)) == ["GIVEN"]


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_of_ours_with_settings_of_ours(name: str) -> None:
    command, *options = SERVICES[name]["command"]
    program = get_command(app)
    known = {one for parameter in program.commands[command].params for one in parameter.opts}
    settings = {f"TASKSERVER_{field.upper()}" for field in Settings.model_fields}

    assert {one for one in options if one.startswith("--")} <= known
    assert set(SERVICES[name]["environment"]) <= settings


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
def test_what_stays_up_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_nothing_begins_before_what_it_needs() -> None:
    for name in ("server", "worker"):
        needed = {other: one["condition"] for other, one in SERVICES[name]["depends_on"].items()}
        assert needed == {"migrate": "service_completed_successfully", "redis": "service_healthy"}
    assert SERVICES["flower"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert SERVICES["migrate"]["restart"] == "no"


@pytest.mark.parametrize("name", ["server", "flower"])
def test_what_is_published_is_published_to_this_machine_only(name: str) -> None:
    assert all(one.startswith("127.0.0.1:") for one in SERVICES[name]["ports"])
    assert [one for one in SERVICES if "ports" in SERVICES[one]] == ["server", "flower"]


def test_flower_is_behind_a_login_and_knows_no_other_secret() -> None:
    known = set(SERVICES["flower"]["environment"])

    assert "TASKSERVER_FLOWER_AUTH" in known
    assert not known & {"TASKSERVER_DATABASE_URL", "TASKSERVER_SECRET_KEY", "TASKSERVER_ADMIN_TOKEN"}
    assert not any(
        "TASKSERVER_FLOWER_AUTH" in SERVICES[name]["environment"] for name in ("server", "worker", "migrate")
    )


def test_handlers_are_given_nothing_that_makes_tokens() -> None:
    known = {name: set(SERVICES[name]["environment"]) for name in OURS}

    assert known["migrate"] == {"TASKSERVER_DATABASE_URL"}
    assert known["worker"] == {
        f"TASKSERVER_{name}" for name in ("DATABASE_URL", "REDIS_URL", "HANDLERS", "CALLBACK_HOSTS", "CALLBACK_KEY")
    }
    assert [name for name in OURS if known[name] & {"TASKSERVER_SECRET_KEY", "TASKSERVER_ADMIN_TOKEN"}] == ["server"]


def test_servers_and_workers_agree_where_callbacks_may_go() -> None:
    hosts = {SERVICES[name]["environment"]["TASKSERVER_CALLBACK_HOSTS"] for name in ("server", "worker")}

    assert hosts == {"${TASKSERVER_CALLBACK_HOSTS:-}"}


def test_a_health_check_asks_for_what_the_service_is_given() -> None:
    _, program, command, *options = SERVICES["worker"]["healthcheck"]["test"]

    known = {one for parameter in get_command(app).commands[command].params for one in parameter.opts}

    assert (program, options) == ("taskserver", ["--worker"])
    assert set(options) <= known


def test_servers_and_flower_agree_where_flower_is() -> None:
    assert (
        SERVICES["server"]["environment"]["TASKSERVER_FLOWER_URL"]
        == (SERVICES["flower"]["environment"]["TASKSERVER_FLOWER_URL"])
    )
    default = next(text for name, otherwise, text in TAKEN if name == "TASKSERVER_FLOWER_URL")
    [published] = SERVICES["flower"]["ports"]
    assert default == f"http://{published.rpartition(':')[0]}"


def test_redis_refuses_rather_than_forgets() -> None:
    command = SERVICES["redis"]["command"]

    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_the_image_copies_what_is_there() -> None:
    build = SERVICES["server"]["build"]
    copied = [
        word
        for line in re.findall(r"^COPY (.*) \S+$", build["dockerfile_inline"], re.MULTILINE)
        for word in line.split()
    ]

    assert build["dockerfile_inline"].startswith("FROM python:3.11-slim\n")
    assert "requirements.lock" in copied
    assert [one for one in copied if not (ROOT / one).exists()] == []
