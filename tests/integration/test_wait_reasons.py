"""What the API tells of subtasks that wait, from real rows that verbs have moved."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.transitions import cancellations, registrations, releases, retries, rollbacks
from schema.transitions.orders import Order
from schema.transitions.registrations import WorkerInfo
from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, execute, make_task
from tests.operators import use

ANNA = Order("anna", account="0")
DIAMOND = {"top": (), "left": ("top",), "right": ("top",), "end": ("left", "right"), "after": ("end",)}
UNDONE_BY_HANDLERS = {key: {"has_rollback": True} for key in DIAMOND}


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


@pytest.fixture
def rolling_back(engine: Engine) -> StoredTask:
    """A diamond whose end failed, on its way back; what comes after the end has never begun."""
    task = make_task(engine, DIAMOND, UNDONE_BY_HANDLERS)
    for key in ("top", "left", "right"):
        task.run(key)
    task.run("end", verdict="FAILED")
    with transaction(engine) as connection:
        rollbacks.rollback(connection, task.id, ANNA)
    return task


def reasons(api: ApiClient, task: StoredTask) -> dict[str, Any]:
    """Return the reasons by key, as the task's detail and each subtask's own answer tell them alike."""
    listed = {one["key"]: one.get("waitReason") for one in api.data(f"/instances/{task.id}")["subtasks"]}
    single = {
        key: api.data(f"/instances/{task.id}/subtasks/{subtask}").get("waitReason") for key, subtask in task.ids.items()
    }
    assert listed == single
    return listed


def register(engine: Engine, number: int, kinds: Sequence[str] | None, *, queue: str = "default") -> None:
    with transaction(engine) as connection:
        info = WorkerInfo(number, f"w{number}", "host1", 99, [queue], 2, "v", kinds=kinds)
        registrations.register_worker(connection, info)


def decline_and_wait(task: StoredTask, key: str) -> None:
    """Let a worker leave the subtask to others, until it is offered again."""
    [claimed] = task.begin(key)
    task.decline(key, claim=claimed.claim)
    task.set(key, "scheduled_at = now()")
    with transaction(task.engine) as connection:
        releases.end_delays(connection, task.id)


def types(found: dict[str, Any]) -> dict[str, str | None]:
    return {key: None if one is None else one["type"] for key, one in found.items()}


def test_in_a_rollback_each_step_waits_for_the_downstreams_to_be_undone_first(
    api: ApiClient, rolling_back: StoredTask
) -> None:
    ids = rolling_back.ids

    found = reasons(api, rolling_back)

    assert types(found) == {
        "top": "upstream",
        "left": "upstream",
        "right": "upstream",
        "end": "no_worker",
        "after": "task_failing",
    }
    assert found["top"]["upstreams"] == [ids["left"], ids["right"]]
    assert found["left"]["upstreams"] == [ids["end"]]


def test_what_has_been_undone_waits_for_nothing_and_holds_nothing(api: ApiClient, rolling_back: StoredTask) -> None:
    rolling_back.run("end")
    rolling_back.run("left")

    found = reasons(api, rolling_back)

    assert types(found) == {
        "top": "upstream",
        "left": None,
        "right": "no_worker",
        "end": None,
        "after": "task_failing",
    }
    assert found["top"]["upstreams"] == [rolling_back.ids["right"]]


def test_a_failed_rollback_holds_the_steps_before_it(api: ApiClient, rolling_back: StoredTask) -> None:
    rolling_back.run("end", verdict="FAILED")

    found = reasons(api, rolling_back)

    assert types(found) == {
        "top": "upstream",
        "left": "upstream",
        "right": "upstream",
        "end": None,
        "after": "task_failing",
    }


def test_what_waits_in_a_task_that_is_being_cancelled_will_not_begin(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ("a",)})
    task.begin("a")
    with transaction(engine) as connection:
        cancellations.cancel_task(connection, task.id, ANNA)

    found = reasons(api, task)

    assert types(found) == {"a": None, "b": "task_failing", "c": "task_failing"}
    assert "is being cancelled" in found["b"]["detail"]


def test_once_it_is_cancelled_nothing_waits(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)})
    with transaction(engine) as connection:
        cancellations.cancel_task(connection, task.id, ANNA)

    assert types(reasons(api, task)) == {"a": None, "b": None}


def test_a_retry_does_not_make_forget_that_what_forbids_a_rollback_has_begun(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"prohibit_rollback": True}})
    before = api.data(f"/instances/{task.id}")["prohibitRollback"]
    task.run("a", verdict="FAILED")
    with transaction(engine) as connection:
        retries.retry_task(connection, task.id, ANNA)

    assert task.row("a")["starts"] == 0
    assert before is False
    assert api.data(f"/instances/{task.id}")["prohibitRollback"] is True


@pytest.mark.parametrize("verb", [None, "retry", "rollback"])
def test_what_a_worker_declined_waits_for_one_with_its_kind_however_often_it_was_attempted(
    api: ApiClient, engine: Engine, verb: str | None
) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"has_rollback": True}})
    register(engine, 1, ["other.kind"])
    if verb is not None:
        task.run("a", verdict="FAILED")
        use(task, verb)
    [claimed] = task.begin("a")
    task.decline("a", claim=claimed.claim)

    found = reasons(api, task)["a"]

    assert found["type"] == "no_worker"
    assert "test.kind" in found["detail"]
    assert "until" in found


def test_an_attempt_that_failed_after_a_worker_had_declined_it_waits_for_the_next(
    api: ApiClient, engine: Engine
) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 3}})
    register(engine, 1, ["test.kind"])
    decline_and_wait(task, "a")
    task.run("a", verdict="RETRY", delay_seconds=600.0)

    assert types(reasons(api, task)) == {"a": "retry"}


def test_what_was_declined_and_is_due_again_waits_its_turn(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    register(engine, 1, ["test.kind"])
    decline_and_wait(task, "a")

    assert types(reasons(api, task)) == {"a": "queued"}


def test_a_kind_that_no_live_worker_of_the_queue_has_is_told_before_any_worker_declined_it(
    api: ApiClient, engine: Engine
) -> None:
    task = make_task(engine, {"a": (), "b": ()}, {"b": {"kind": "host.mount"}})
    register(engine, 1, ["test.kind"])
    register(engine, 2, ["host.mount"], queue="gpu")
    register(engine, 3, ["host.mount"])
    execute(engine, "UPDATE workers SET beat_at = now() - interval '1 hour' WHERE id = 3")

    found = reasons(api, task)

    assert types(found) == {"a": "queued", "b": "no_worker"}
    assert "the kind host.mount" in found["b"]["detail"]


@pytest.mark.parametrize("kinds", [["host.mount"], None])
def test_one_worker_that_has_the_kind_or_never_told_its_kinds_is_enough(
    api: ApiClient, engine: Engine, kinds: list[str] | None
) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"kind": "host.mount"}})
    register(engine, 1, ["test.kind"])
    register(engine, 2, kinds)

    assert types(reasons(api, task)) == {"a": "queued"}
