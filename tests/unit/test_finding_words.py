"""The words that findings share."""

import re
from pathlib import Path

import pytest
import typer.main

from taskserver.__main__ import app
from taskserver.diagnosis.finding import counted, named, span
from taskserver.views.diagnosis import FindingView

RULES = sorted(Path(__file__).parents[2].joinpath("taskserver/diagnosis").glob("*_rules.py"))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (0, "0 s"), (59.4, "59 s"), (60, "1 min"), (90, "1.5 min"), (7200, "2 h"), (86_400 * 3, "3 d")],
)
def test_a_span_is_told_in_the_unit_in_which_people_say_it(seconds: float, said: str) -> None:
    assert span(seconds) == said


@pytest.mark.parametrize(("count", "said"), [(0, "0 subtasks"), (1, "1 subtask"), (2, "2 subtasks")])
def test_a_count_agrees_with_its_noun(count: int, said: str) -> None:
    assert counted(count) == said


def test_the_first_of_several_is_named_and_the_others_are_counted() -> None:
    assert named("a[0]", 7, 3) == "subtask 'a[0]' (7) and 2 more"
    assert named("a[0]", 7, 1) == "subtask 'a[0]' (7)"


def test_the_page_for_operators_has_every_finding() -> None:
    described = FindingView.model_fields["type"].description or ""
    page = Path(__file__).parents[2].joinpath("docs/operating.md").read_text()

    told = set(re.findall(r"^\| `([a-z_]+)` \|", page.partition("## Why one subtask waits")[0], re.MULTILINE))

    assert told == set(described.removeprefix("One of ").rstrip(".").split(", "))


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.stem)
def test_every_command_that_a_cure_names_is_there(rules: Path) -> None:
    named = set(re.findall(r"`taskserver ([a-z]+)", rules.read_text()))

    assert named
    assert named <= typer.main.get_command(app).commands.keys()  # type: ignore[attr-defined]
