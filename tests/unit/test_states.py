import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from schema.states import (
    BEGUN_SUBTASK_STATES,
    ENDED_SUBTASK_STATES,
    FINAL_TASK_STATES,
    LIVE_TASK_STATES,
    SETTLED_TASK_STATES,
    SUBTASK_ARROWS,
    TASK_ARROWS,
    SubtaskState,
    TaskState,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "states.md"


def test_every_state_has_its_arrows() -> None:
    assert set(TASK_ARROWS) == set(TaskState)
    assert set(SUBTASK_ARROWS) == set(SubtaskState)


def test_no_arrow_leads_to_where_it_began() -> None:
    assert not [state for state, after in TASK_ARROWS.items() if state in after]
    assert not [state for state, after in SUBTASK_ARROWS.items() if state in after]


@pytest.mark.parametrize(("arrows", "first"), [(TASK_ARROWS, "CREATED"), (SUBTASK_ARROWS, "PENDING")])
def test_every_state_can_be_reached_from_the_first(arrows: dict[str, frozenset[str]], first: str) -> None:
    reached, waiting = {first}, [first]
    while waiting:
        for state in arrows[waiting.pop()] - reached:
            reached.add(state)
            waiting.append(state)

    assert reached == set(arrows)


def test_the_derived_sets_of_task_states() -> None:
    assert {"FAILED", "REVOKED", "SUCCESSFUL", "ROLLED_BACK"} == SETTLED_TASK_STATES
    assert {"REVOKED", "SUCCESSFUL", "ROLLED_BACK"} == FINAL_TASK_STATES
    assert {"CREATED", "RUNNING", "SUSPENDED"} == LIVE_TASK_STATES


def test_the_derived_sets_of_subtask_states() -> None:
    assert {"RUNNING", "CANCELING"} == BEGUN_SUBTASK_STATES
    assert {"FAILED", "SUCCESSFUL"} == ENDED_SUBTASK_STATES


def test_what_is_being_cancelled_can_only_fail() -> None:
    assert SUBTASK_ARROWS[SubtaskState.CANCELING] == {SubtaskState.FAILED}


def test_nothing_ends_successfully_that_was_released_but_never_ran() -> None:
    assert SUBTASK_ARROWS[SubtaskState.READY] == {SubtaskState.RUNNING, SubtaskState.PENDING}


@pytest.mark.parametrize(("heading", "arrows"), [("Task", TASK_ARROWS), ("Subtask", SUBTASK_ARROWS)])
def test_the_document_draws_and_tells_exactly_these_arrows(heading: str, arrows: dict[str, frozenset[str]]) -> None:
    section = _section(heading)

    expected = sorted(f"{state} → {after}" for state, others in arrows.items() for after in others)
    drawn = sorted(
        f"{before} → {after}" for before, after in re.findall(r"^ {4}(\w+) --> (\w+)", section, re.MULTILINE)
    )
    told = sorted(f"{before} → {after}" for before, after in re.findall(r"^\| (\w+) → (\w+) \|", section, re.MULTILINE))
    assert drawn == expected
    assert told == expected


@pytest.mark.parametrize(("heading", "arrows"), [("Task", TASK_ARROWS), ("Subtask", SUBTASK_ARROWS)])
def test_the_document_begins_and_ends_where_the_arrows_do(heading: str, arrows: dict[str, frozenset[str]]) -> None:
    section = _section(heading)

    first = "CREATED" if heading == "Task" else "PENDING"
    assert re.findall(r"^ {4}\[\*\] --> (\w+)", section, re.MULTILINE) == [first]
    ends = re.findall(r"^ {4}(\w+) --> \[\*\]", section, re.MULTILINE)
    assert sorted(ends) == _names(state for state, after in arrows.items() if not after)


def _names(states: Iterable[str]) -> list[str]:
    return sorted(str(state) for state in states)


def _section(heading: str) -> str:
    _, found, after = DOCUMENT.read_text().partition(f"\n## {heading}\n")
    assert found, f"docs/states.md has no section {heading}"
    return after.partition("\n## ")[0]
