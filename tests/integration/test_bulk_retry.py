"""A retry of several tasks with an idempotency key: one connection at a time, each task once, whatever cuts it short."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine

from schema.database import make_engine
from schema.errors import IdempotencyKeyReused, InvalidArgument, Unavailable
from schema.identity import TaskId
from schema.transitions.idempotency import IdempotentCall
from taskserver.control import retry_tasks
from taskserver.idempotency import idempotent_call
from tests.eventually import eventually
from tests.factories import StoredTask, make_task, many, together
from tests.invariants import assert_invariants
from tests.operators import OPERATOR, audit, use


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


@pytest.fixture
def narrow(database_url: str) -> Iterator[Engine]:
    """Return an engine with a single connection."""
    engine = make_engine(database_url, name="narrow", pool_size=1)
    yield engine
    engine.dispose()


def _failed(engine: Engine) -> StoredTask:
    task = make_task(engine, {"a": ()})
    task.run("a", verdict="FAILED")
    return task


def _these(*tasks: StoredTask) -> Callable[[Connection], list[TaskId]]:
    return lambda _: [task.id for task in tasks]


def _call(document: object = None) -> IdempotentCall:
    call = idempotent_call("key", account="0", scope="retry several tasks", document=document)
    assert call is not None
    return call


def test_a_single_connection_is_enough(engine: Engine, narrow: Engine) -> None:
    tasks = [_failed(engine) for _ in range(3)]

    retried = retry_tasks(narrow, _these(*tasks), OPERATOR, call=_call())

    assert [(one.task, one.error) for one in retried] == [(task.id, None) for task in tasks]
    assert {task.column("state") for task in tasks} == {"RUNNING"}


def test_the_same_call_again_is_answered_the_same_and_does_nothing(engine: Engine) -> None:
    tasks = [_failed(engine), make_task(engine, {"a": ()})]
    first = retry_tasks(engine, _these(*tasks), OPERATOR, call=_call())
    tasks[0].run("a", verdict="FAILED")

    again = retry_tasks(engine, _these(), OPERATOR, call=_call())

    assert again == first
    assert [one.error is None for one in first] == [True, False]
    assert tasks[0].column("state") == "FAILED"
    with pytest.raises(IdempotencyKeyReused):
        retry_tasks(engine, _these(*tasks), OPERATOR, call=_call("another body"))


def test_a_choice_that_is_refused_burns_no_key(engine: Engine) -> None:
    task = _failed(engine)

    def too_many(_: Connection) -> list[TaskId]:
        raise InvalidArgument("too many")

    with pytest.raises(InvalidArgument):
        retry_tasks(engine, too_many, OPERATOR, call=_call())
    retried = retry_tasks(engine, _these(task), OPERATOR, call=_call())

    assert [one.error for one in retried] == [None]


def test_a_call_that_was_cut_short_is_gone_on_with_when_it_comes_again(engine: Engine, narrow: Engine) -> None:
    tasks = [_failed(engine) for _ in range(3)]

    with ThreadPoolExecutor(1) as pool, tasks[1].locked():
        cut = pool.submit(retry_tasks, narrow, _these(*tasks), OPERATOR, call=_call())
        eventually(lambda: _cut_who_waits(engine), what="it waits for the second task")
        with pytest.raises(Unavailable):
            cut.result(20)
    assert [task.column("state") for task in tasks] == ["RUNNING", "FAILED", "FAILED"]
    again = retry_tasks(narrow, _these(tasks[1]), OPERATOR, call=_call())

    assert [(one.task, one.error) for one in again] == [(task.id, None) for task in tasks]
    assert [[row["verb"] for row in audit(task)] for task in tasks] == [["retry"]] * 3


def _cut_who_waits(engine: Engine) -> bool:
    query = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'narrow' AND wait_event_type = 'Lock'
    """
    return bool(many(engine, query))


def test_of_the_same_call_twice_at_once_each_task_is_retried_once(engine: Engine) -> None:
    tasks = [_failed(engine) for _ in range(10)]

    answers = together(3, lambda _: retry_tasks(engine, _these(*tasks), OPERATOR, call=_call()))

    assert answers[0] == answers[1] == answers[2]
    assert {one.error is None for one in answers[0]} == {True}
    assert [len(audit(task)) for task in tasks] == [1] * 10


def test_what_was_retried_under_the_key_can_be_retried_without_it(engine: Engine) -> None:
    task = _failed(engine)
    retry_tasks(engine, _these(task), OPERATOR, call=_call())
    task.run("a", verdict="FAILED")

    use(task, "retry")

    assert task.column("state") == "RUNNING"
