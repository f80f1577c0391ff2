import functools
import operator
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.carriers import carrier_number
from schema.database import transaction
from schema.transitions import progress, releases
from schema.transitions.frontiers import Share, load_frontiers
from tests.factories import execute, make_task, many, one, together
from tests.invariants import assert_invariants

RUN = {"a": (), "b": ("a",), "c": ("b",)}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def _candidates(engine: Engine, *, limit: int = 100, **left_out: Any) -> list[int]:
    with transaction(engine) as connection:
        return list(releases.tasks_with_startable(connection, limit=limit, **left_out))


def _open_due(engine: Engine) -> list[int]:
    with transaction(engine) as connection:
        return list(releases.open_due_tasks(connection))


def test_what_may_start_is_ready_and_what_follows_is_carried(engine: Engine) -> None:
    task = make_task(engine, RUN)
    carriers = {key: carrier_number(5, step, 0) for step, key in enumerate("abc")}

    task.release(carriers=carriers)

    rows = task.rows()
    assert {key: row["state"] for key, row in rows.items()} == {"a": "READY", "b": "PENDING", "c": "PENDING"}
    assert {key: row["carrier"] for key, row in rows.items()} == carriers
    assert [row["released_at"] is not None for row in rows.values()] == [True, False, False]
    assert task.progress().startable == 0
    assert task.frontier() == []


def test_followers_become_ready_one_after_the_other(engine: Engine) -> None:
    task = make_task(engine, RUN)
    task.release(carriers={key: carrier_number(5, step, 0) for step, key in enumerate("abc")})

    task.record(task.claim("a"))
    assert task.states() == {"a": "SUCCESSFUL", "b": "READY", "c": "PENDING"}
    task.record(task.claim("b"))
    assert task.states() == {"a": "SUCCESSFUL", "b": "SUCCESSFUL", "c": "READY"}
    task.record(task.claim("c"))

    assert task.column("state") == "SUCCESSFUL"


def test_the_first_release_starts_the_task_and_says_where(engine: Engine) -> None:
    task = make_task(engine, RUN)
    assert (task.column("state"), task.column("status")) == ("CREATED", 0)

    task.release("a")
    started_at = task.column("started_at")
    task.record(task.claim("a"))
    task.release("b")

    assert (task.column("state"), task.column("status"), task.column("executor")) == ("RUNNING", 1, "test-server")
    assert task.column("started_at") == started_at
    assert task.column("updated_at") >= task.column("created_at")


def test_what_another_plan_has_taken_is_not_released_again(engine: Engine) -> None:
    task = make_task(engine, RUN)
    first = {key: carrier_number(5, step, 0) for step, key in enumerate("ab")}
    task.release(carriers=first)

    task.release(carriers={key: carrier_number(99, step, 0) for step, key in enumerate("ab")})

    assert {key: task.row(key)["carrier"] for key in "ab"} == first
    assert task.progress().ready == 1


@pytest.mark.parametrize("held", ["scheduled_at = now() + interval '1 hour'", "gate = 'signal'"])
def test_what_waits_for_something_else_is_not_released(engine: Engine, held: str) -> None:
    task = make_task(engine, {"a": (), "b": ()})
    task.set("a", held)
    execute(engine, "UPDATE task_progress SET startable = startable - 1")

    task.release("a", "b")

    assert task.states() == {"a": "PENDING", "b": "READY"}


def test_two_dispatchers_that_release_the_same_at_once_release_it_once(engine: Engine) -> None:
    keys = [f"s{number}" for number in range(20)]
    for _ in range(5):
        task = make_task(engine, dict.fromkeys(keys, ()))

        together(4, lambda _, task=task: task.release(*keys))

        assert task.progress().ready == 20


def test_the_frontier_holds_what_lies_just_ahead_and_no_more_than_asked(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",), "c": ("b",), "d": ("c",), "x": (), "y": ("x",)})

    assert task.frontier() == ["a", "b", "c", "d", "x", "y"]
    assert task.frontier(ahead=2) == ["a", "b", "x", "y"]
    assert task.frontier(ahead=0) == ["a", "x"]
    assert task.frontier(limit=1) == ["a", "b", "c", "d"]


def test_the_frontier_of_a_wide_graph_holds_each_once_with_the_edges_between_them(engine: Engine) -> None:
    keys = [f"s{number}" for number in range(40)]
    task = make_task(engine, {**dict.fromkeys(keys, ()), "j": tuple(keys), "k": tuple(keys)})
    with task.locked() as (connection, _):
        [frontier] = load_frontiers(connection, [Share(task.id, 100)], ahead=100)

    assert [node.id for node in frontier.nodes] == sorted(task.ids.values())
    assert len(frontier.edges) == len(set(frontier.edges)) == 80


def test_frontiers_of_several_tasks_come_apart_and_in_the_order_asked_for(engine: Engine) -> None:
    first, second, third = (make_task(engine, RUN) for _ in range(3))
    with transaction(engine) as connection:
        tasks = [third.id, first.id, second.id]
        progress.lock_all(connection, tasks)
        loaded = load_frontiers(connection, [Share(task, 10) for task in tasks], ahead=100)

    assert [frontier.task for frontier in loaded] == tasks
    assert [[node.id for node in frontier.nodes] for frontier in loaded] == [
        sorted(task.ids.values()) for task in (third, first, second)
    ]
    assert [len(frontier.edges) for frontier in loaded] == [2, 2, 2]


def test_a_task_whose_start_lies_in_the_future_opens_later(engine: Engine) -> None:
    task = make_task(engine, RUN, start_at=datetime.now(UTC) + timedelta(hours=1))

    assert task.progress().open is False
    assert _open_due(engine) == []
    assert _candidates(engine) == []
    with transaction(engine) as connection:
        assert 3590 < (releases.seconds_to_next_delay(connection) or 0) <= 3600

    execute(engine, "UPDATE task_progress SET opens_at = now() - interval '1 second'")

    assert _open_due(engine) == [task.id]
    assert _open_due(engine) == []
    assert _candidates(engine) == [task.id]


def test_a_start_time_that_has_passed_holds_nothing(engine: Engine) -> None:
    task = make_task(engine, RUN, start_at=LONG_AGO)

    assert _candidates(engine) == [task.id]


def test_many_servers_open_due_tasks_at_once_each_task_once(engine: Engine) -> None:
    for _ in range(30):
        make_task(engine, {"a": ()}, start_at=datetime.now(UTC) + timedelta(hours=1))
    execute(engine, "UPDATE task_progress SET opens_at = now() - interval '1 second'")

    opened = together(6, lambda _: _open_due(engine))

    assert sorted(task for each in opened for task in each) == sorted(
        row["id"] for row in many(engine, "SELECT id FROM tasks")
    )


def test_a_task_that_a_worker_holds_delays_the_opening_of_no_other(engine: Engine) -> None:
    busy, other = (make_task(engine, {"a": ()}, start_at=datetime.now(UTC) + timedelta(hours=1)) for _ in range(2))
    execute(engine, "UPDATE task_progress SET opens_at = now() - interval '1 second'")

    with busy.locked():
        assert _open_due(engine) == [other.id]

    assert _open_due(engine) == [busy.id]


def test_nothing_is_delayed(engine: Engine) -> None:
    make_task(engine, RUN)

    with transaction(engine) as connection:
        assert releases.seconds_to_next_delay(connection) is None


def test_candidates_come_by_priority_then_by_turns_of_accounts_then_by_age(engine: Engine) -> None:
    order = [
        ("one", 5),  # 0
        ("one", 5),  # 1
        ("one", 5),  # 2
        ("two", 5),  # 3
        ("two", 5),  # 4
        ("three", 5),  # 5
        ("three", 9),  # 6
        ("one", 0),  # 7
    ]
    tasks = [make_task(engine, {"a": ()}, account=account, priority=priority) for account, priority in order]

    found = [tasks.index(next(task for task in tasks if task.id == id_)) for id_ in _candidates(engine)]

    assert found == [6, 0, 3, 5, 1, 4, 2, 7]


def test_the_pages_of_candidates_make_up_the_whole_line(engine: Engine) -> None:
    for number in range(40):
        make_task(engine, {"a": ()}, account=f"account {number % 3}", priority=number % 4)
    whole = _candidates(engine)
    assert len(whole) == len(set(whole)) == 40

    pages: list[list[int]] = []
    for _ in range(7):
        pages.append(_candidates(engine, limit=7, but=functools.reduce(operator.iadd, pages, [])))

    assert [id_ for page in pages for id_ in page] == whole


def test_an_account_with_a_long_line_does_not_keep_another_waiting(engine: Engine) -> None:
    for _ in range(20):
        make_task(engine, {"a": ()}, account="busy")
    late = make_task(engine, {"a": ()}, account="quiet")

    assert late.id in _candidates(engine, limit=2)


@pytest.mark.parametrize("reason", ["released", "limit", "paused", "carried"])
def test_a_task_in_which_nothing_may_be_released_is_no_candidate(engine: Engine, reason: str) -> None:
    task = make_task(engine, {"a": (), "b": ()}, concurrency=1)
    match reason:
        case "released":
            task.release("a", "b")
        case "limit":
            task.begin("a")
        case "paused":
            execute(engine, "UPDATE task_progress SET open = false")
        case "carried":
            task.release(carriers={"a": carrier_number(1, 0, 0), "b": carrier_number(1, 0, 1)})

    assert _candidates(engine) == []


def test_a_downstream_whose_upstream_is_skipped_over_waits_for_all_its_upstreams(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": (), "c": ("a", "b")})
    task.release(carriers={"a": carrier_number(1, 0, 0), "c": carrier_number(1, 1, 0)})

    task.record(task.claim("a"))

    assert task.states() == {"a": "SUCCESSFUL", "b": "PENDING", "c": "PENDING"}
    assert task.claim("c") == []


def test_a_release_of_nothing_moves_nothing(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    task.begin("a")

    task.release("a")

    assert task.states() == {"a": "RUNNING"}
    assert one(engine, "SELECT ready, running FROM task_progress") == {"ready": 0, "running": 1}


def test_a_task_with_work_for_full_queues_alone_is_left_out(engine: Engine) -> None:
    full = make_task(engine, {"a": ()}, {"a": {"queue": "full"}})
    both = make_task(engine, {"a": (), "b": ()}, {"a": {"queue": "full"}, "b": {"queue": "free"}})
    behind = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"queue": "full"}, "b": {"queue": "free"}})

    assert _candidates(engine) == [full.id, both.id, behind.id]
    assert _candidates(engine, full_queues={"full"}) == [both.id]
