"""What holds for every command of the command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from taskserver.__main__ import app
from taskserver.cli.exits import EPILOG

PARTS = {"dev", "server", "worker", "flower", "migrate", "check", "demo"}
CONTRACT = {
    *PARTS,
    *("submit", "list", "status", "show", "log", "retry", "skip", "cancel", "pause", "resume", "rollback", "abandon"),
    *("plan", "definitions list", "definitions show", "definitions put", "definitions delete"),
    *("principals create", "principals list", "principals rotate", "principals delete"),
}


def _commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} ")
        else:
            yield above + name, command


COMMANDS = dict(_commands(typer.main.get_command(app)))


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def test_every_command_of_the_contract_is_there() -> None:
    assert COMMANDS.keys() >= CONTRACT


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_names_every_command(name: str) -> None:
    page = Path(__file__).parents[2].joinpath("docs/cli.md").read_text()

    assert f"`{name.partition(' ')[0]}" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_tells_the_exit_codes_and_what_the_command_does(name: str) -> None:
    assert COMMANDS[name].epilog == EPILOG
    assert COMMANDS[name].help


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - PARTS))
def test_every_command_of_the_client_can_print_json_and_use_any_dev(name: str) -> None:
    assert {"--json", "--data"} <= _options(COMMANDS[name])


@pytest.mark.parametrize("name", ["retry", "skip", "cancel", "pause", "resume", "rollback", "abandon"])
def test_every_verb_takes_a_reason(name: str) -> None:
    assert "--reason" in _options(COMMANDS[name])
