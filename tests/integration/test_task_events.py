"""How attempts ended that somebody else recorded: read from the database, and told in the name of the worker that is gone."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.events import EventReceiver
from sqlalchemy import Engine

from schema.celeryapp import make_celery
from schema.database import transaction
from schema.identity import subtask_hex
from schema.inputs import load_task
from schema.settings import Settings
from schema.task_events import Happening, read_fates
from schema.transitions import registrations
from schema.transitions.definitions import NewDefinition, put_definition
from schema.transitions.registrations import WorkerInfo
from schema.transitions.rescues import Seen
from taskserver.dispatcher.telling import Teller
from taskserver.embedded.stack import EmbeddedStack
from tests.factories import StoredTask, execute, make_task


def _fates(task: StoredTask, *keys: str) -> dict[str, tuple[str, str]]:
    with transaction(task.engine) as connection:
        fates = read_fates(connection, [task.ids[key] for key in keys or task.ids])
    return {one.node.key: (one.what, one.shown) for _, one in fates}


def test_a_fate_is_that_of_the_last_attempt(engine: Engine) -> None:
    task = make_task(engine, dict.fromkeys("abcd", ()), {"b": {"max_attempts": 2}})
    task.run("a", result={"cpu": 8})
    task.run("b", verdict="RETRY", error_type="flaky", error_message="not yet")
    claimed = task.begin("c")
    task.cancel("c")
    task.record(claimed)

    assert _fates(task) == {"a": ("succeeded", ""), "b": ("retried", "flaky: not yet"), "c": ("revoked", "")}


def test_of_what_runs_again_nothing_is_said(engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
    task.run("a", verdict="RETRY")

    task.begin("a")

    assert _fates(task) == {}


def test_what_was_cancelled_is_told_by_the_record(engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ()}, {"a": {"allow_failure": True}})
    claimed = task.begin("a", "b")
    task.cancel("a")

    recorded = task.record(claimed)

    assert recorded.canceled == {task.ids["a"]}
    assert recorded.ids == {task.ids["a"], task.ids["b"]}


def _define(engine: Engine, document: dict[str, Any]) -> int:
    with transaction(engine) as connection:
        new = NewDefinition(account="0", name="prepare", document=document, creator="tester")
        return put_definition(connection, new).id


@pytest.mark.parametrize(
    ("members", "redacts"), [({"redact": ["password"]}, True), ({"redact": []}, False), ({}, False)]
)
def test_what_a_definition_hides_is_known_to_who_runs_the_task_and_to_who_tells_of_it(
    engine: Engine, members: dict[str, Any], redacts: bool
) -> None:
    document = {"subtasks": [{"key": "a", "kind": "host.check"}], **members}
    task = make_task(engine, {"a": ()}, definition_id=_define(engine, document))
    task.run("a", verdict="FAILED", error_type="refused", error_message="no login with hunter2")

    with transaction(engine) as connection:
        told = load_task(connection, task.id)

    assert told.redacts is redacts
    assert _fates(task) == {"a": ("failed", "refused" if redacts else "refused: no login with hunter2")}


def test_what_no_definition_made_hides_nothing(engine: Engine) -> None:
    task = make_task(engine, {"a": ()})

    with transaction(engine) as connection:
        assert not load_task(connection, task.id).redacts


@pytest.fixture
def settings(stack: EmbeddedStack, database_url: str) -> Settings:
    return Settings(database_url=database_url, redis_url=stack.redis_url)  # type: ignore[arg-type]


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with make_celery(settings) as app:
        yield app


@pytest.fixture
def receiver(app: Celery) -> Iterator["Ears"]:
    with app.connection_for_read() as connection:
        yield Ears(app, connection)


class Ears:
    """Listens as Flower does."""

    def __init__(self, app: Celery, connection: Any) -> None:
        self.heard: list[dict[str, Any]] = []
        receiver = EventReceiver(connection, handlers={"*": self.heard.append}, app=app)
        self._events = receiver.itercapture(wakeup=False, timeout=10)
        self._consumer = next(self._events)  # from now on it hears

    def listen(self, count: int) -> list[dict[str, Any]]:
        """Return what is heard once there is so much of it."""
        while len(self.heard) < count:
            next(self._events)
        return self.heard


def test_what_a_dispatcher_had_to_fail_is_told_in_the_name_of_the_workers_machine(
    engine: Engine, app: Celery, settings: Settings, receiver: Ears
) -> None:
    _register(engine, name="celery@there", host="there")
    task = make_task(engine, {"a": (), "b": ()}, {"a": {"lost_is_failure": True, "kind": "host.check"}})
    claimed = task.begin("a", "b")
    execute(engine, "UPDATE subtasks SET executor = 'there:123'")
    lost = task.rescue(claimed[0].claim, seen=None)

    Teller(engine, app, settings).tell(lost)

    [event] = receiver.listen(1)
    assert event["type"] == "task-failed"
    assert event["uuid"] == subtask_hex(task.column("task_id"), 0)
    assert (event["name"], event["root_id"]) == ("host.check", task.column("task_id"))
    assert event["hostname"] == "celery@there"
    assert event["exception"].startswith("worker_lost: ")


def test_what_runs_again_after_its_process_died_is_told_as_a_retry(
    engine: Engine, app: Celery, settings: Settings, receiver: Ears
) -> None:
    task = make_task(engine, {"a": ()})
    claimed = task.begin("a")
    lost = task.rescue(claimed[0].claim, seen=Seen(claimed[0].id))

    Teller(engine, app, settings).tell(lost)

    [event] = receiver.listen(1)
    assert event["type"] == "task-retried"
    assert event["hostname"] == "taskserver@lost"


def test_nothing_is_told_where_events_are_off(engine: Engine, settings: Settings) -> None:
    nowhere: Any = None  # it would fail
    task = make_task(engine, {"a": ()})
    task.run("a")

    Teller(nowhere, nowhere, settings.model_copy(update={"task_events": False})).tell([task.ids["a"]])

    with transaction(engine) as connection:
        [(_, happening)] = read_fates(connection, [task.ids["a"]])
    assert isinstance(happening, Happening)


def _register(engine: Engine, *, name: str, host: str) -> None:
    worker = WorkerInfo(id=50, name=name, host=host, pid=1, queues=["default"], concurrency=2, code_version="")
    with transaction(engine) as connection:
        registrations.register_worker(connection, worker)
