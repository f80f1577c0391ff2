"""The compose file: no secret of its own, and commands that exist."""

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


def test_every_part_is_there() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "server", "worker"}
    assert OURS == ["migrate", "server", "worker"]
    assert SERVICES["server"]["deploy"]["replicas"] == 2


def test_secrets_come_from_the_environment_and_must_be_given() -> None:
    taken = set(re.findall(r"\$\{[^}]*\}", TEXT))

    assert all(re.match(r"\$\{(POSTGRES_PASSWORD|TASKSERVER_SECRET_KEY):\?.+\}$", one) for one in taken)
    assert len({one.partition(":")[0] for one in taken}) == 2
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN", name):
                assert value is None or value.startswith("${"), name
    assert re.findall(r"postgresql://taskserver:([^@]*)@", TEXT) == [
        "${POSTGRES_PASSWORD:?set it to a password of letters and digits}"
    ]


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
    assert SERVICES["migrate"]["restart"] == "no"


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
