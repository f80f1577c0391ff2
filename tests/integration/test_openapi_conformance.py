"""Every call of /openapi.json with right and wrong input: no 5xx, and no answer that the description does not allow."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import Engine

from schema.database import transaction
from schema.kinds import KindInfo
from schema.transitions.registrations import register_kinds
from taskserver.embedded.stack import EmbeddedStack
from tests.factories import make_task
from tests.live import LiveApi, live_api

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
_EXAMPLES = 6
_LONGEST_WAIT = "0.01"
# What is followed does not end before its task does, and no worker is here.
_FOLLOWING = "/events"


@pytest.fixture
def live(engine: Engine, stack: EmbeddedStack) -> Iterator[LiveApi]:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
    with live_api(engine, stack.redis_url) as live:
        yield live


def test_no_answer_falls_outside_the_description(live: LiveApi, engine: Engine, subtests: pytest.Subtests) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    task.run("a", verdict="FAILED", error_message="no route")
    there = {"id": task.id, "sid": task.ids["a"], "key": "a", "task_id": task.id}
    headers = {"authorization": f"Bearer {live.token}"}
    described = schemathesis.openapi.from_url(f"{live.url}/openapi.json", headers=headers)
    exercised = 0

    for found in described.get_all_operations():
        operation = found.ok()
        with subtests.test(call=operation.label):
            _exercise(operation, there, headers)
            exercised += 1

    assert exercised > 40


def _exercise(operation: Any, there: dict[str, object], headers: dict[str, str]) -> None:
    """Call it with input that its description allows, with the ids of what is there, and with input that it does not allow."""
    names = {one.name for one in operation.path_parameters}
    known = {name: value for name, value in there.items() if name in names}
    right = operation.as_strategy(GenerationMode.POSITIVE)
    if known and not operation.path.endswith(_FOLLOWING):
        right = st.one_of(right, operation.as_strategy(GenerationMode.POSITIVE, path_parameters=known))
    _call_with(right, headers)
    with suppress(Unsatisfiable):  # where whatever comes is right
        _call_with(operation.as_strategy(GenerationMode.NEGATIVE), headers)


def _call_with(cases: st.SearchStrategy[schemathesis.Case], headers: dict[str, str]) -> None:
    @settings(
        max_examples=_EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def call(case: schemathesis.Case) -> None:
        if "waitSeconds" in (case.query or {}):
            case.query["waitSeconds"] = _LONGEST_WAIT
        case.call_and_validate(checks=_CHECKS, headers=headers)

    call()
