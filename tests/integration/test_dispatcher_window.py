import base64
import json
from collections.abc import Iterator
from functools import partial
from uuid import uuid4

import pytest
from celery import Celery
from redis import Redis
from sqlalchemy import Connection, Engine

from schema.celeryapp import make_celery, make_redis
from schema.database import transaction
from schema.identity import SubtaskId
from schema.settings import Settings
from schema.transitions import progress, registrations, rescues
from schema.transitions.registrations import Beat, WorkerInfo
from schema.transitions.rescues import LostClaim
from schema.wire import UnitMessage
from taskserver import canvas
from taskserver.dispatcher.advance import Advancer, choose
from taskserver.dispatcher.loop import Dispatcher
from taskserver.dispatcher.rescue import Rescuer
from taskserver.dispatcher.window import Window
from taskserver.embedded.stack import EmbeddedStack
from taskserver.planner import Chord, Fragment, Unit
from tests.eventually import eventually
from tests.factories import StoredTask, execute, make_task
from tests.invariants import assert_invariants


@pytest.fixture
def queue(redis: Redis) -> Iterator[str]:
    """Return the name of a queue that no other test uses."""
    name = f"test-{uuid4().hex}"
    yield name
    redis.delete(name)


@pytest.fixture
def settings(stack: EmbeddedStack, database_url: str) -> Settings:
    return Settings(database_url=database_url, redis_url=stack.redis_url, lost_after_seconds=0.2)  # type: ignore[arg-type]


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    with make_redis(settings) as client:
        yield client


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    app = make_celery(settings)
    yield app
    app.close()


@pytest.fixture
def window(engine: Engine, redis: Redis, settings: Settings) -> Window:
    return Window(engine, redis, settings)


@pytest.fixture
def advancer(engine: Engine, app: Celery, window: Window) -> Advancer:
    return Advancer(engine, partial(canvas.publish, app), window, executor="test-server")


@pytest.fixture
def dispatcher(engine: Engine, app: Celery, redis: Redis, settings: Settings) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(engine, app, redis, settings, name="test-server")
    dispatcher.start()
    yield dispatcher
    dispatcher.stop()


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    yield
    assert_invariants(engine)


def _messages(redis: Redis, queue: str) -> list[UnitMessage]:
    """Return the unit messages of the queue, the next first."""
    found = []
    for raw in reversed(redis.lrange(queue, 0, -1)):  # type: ignore[arg-type, union-attr]
        arguments, _, _ = json.loads(base64.b64decode(json.loads(raw)["body"]))
        found.append(UnitMessage.decode(arguments))
    return found


def _wide(engine: Engine, queue: str, width: int, **columns: int) -> StoredTask:
    keys = [f"s{number}" for number in range(width)]
    return make_task(
        engine, dict.fromkeys(keys, ()), {key: {"queue": queue, "isolated": True} for key in keys}, **columns
    )


def _register(engine: Engine, queue: str, *, concurrency: int, carriers: tuple[int, ...] = ()) -> None:
    with transaction(engine) as connection:
        registrations.register_worker(
            connection,
            WorkerInfo(id=1, name="w", host="h", pid=1, queues=[queue], concurrency=concurrency, code_version=""),
        )
        registrations.beat(connection, 1, Beat(processes=[1], claims=[], carriers=carriers, started=0))


def test_a_queue_without_workers_has_room_for_a_few(window: Window, queue: str, settings: Settings) -> None:
    assert window.room([queue]) == {queue: settings.window_per_slot}


def test_the_room_grows_with_live_slots_and_shrinks_with_what_is_out(
    engine: Engine, window: Window, redis: Redis, queue: str, settings: Settings
) -> None:
    _register(engine, queue, concurrency=3)
    redis.lpush(queue, "x", "y")

    assert window.slots == {queue: 3}
    assert window.room([queue]) == {queue: 3 * settings.window_per_slot - 2}


def test_there_is_never_less_room_than_none(window: Window, redis: Redis, queue: str) -> None:
    redis.lpush(queue, *range(50))

    assert window.room([queue]) == {queue: 0}


def test_no_more_is_released_than_the_window_holds(
    engine: Engine, advancer: Advancer, redis: Redis, queue: str, settings: Settings
) -> None:
    task = _wide(engine, queue, 20)

    first, second = advancer.advance([task.id]), advancer.advance([task.id])

    assert (first.published, first.full) == (settings.window_per_slot, {queue})
    assert (second.published, second.full) == (0, {queue})
    assert task.progress().ready == redis.llen(queue) == settings.window_per_slot
    assert task.progress().startable == 20 - settings.window_per_slot


def test_what_is_taken_from_the_queue_makes_room(engine: Engine, advancer: Advancer, redis: Redis, queue: str) -> None:
    task = _wide(engine, queue, 20)
    advancer.advance([task.id])
    redis.rpop(queue)

    assert advancer.advance([task.id]).published == 1


def test_a_message_names_what_was_released_and_nothing_else(
    engine: Engine, advancer: Advancer, redis: Redis, queue: str
) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"queue": queue}, "b": {"queue": queue}})

    advancer.advance([task.id])

    [message] = _messages(redis, queue)
    assert (message.task_id, message.ids[0]) == (task.id, task.ids["a"])
    assert message.carrier == task.row("a")["carrier"]
    assert task.states() == {"a": "READY", "b": "PENDING"}
    assert task.row("b")["carrier"] is not None


def test_a_task_that_another_dispatcher_plans_is_left_to_it(engine: Engine, advancer: Advancer, queue: str) -> None:
    task = _wide(engine, queue, 3)
    with transaction(engine) as connection:
        assert progress.try_dispatch_locks(connection, [task.id])

        assert advancer.advance([task.id]).published == 0

    assert advancer.advance([task.id]).published == 3


def test_the_tasks_own_limit_bounds_what_is_released(engine: Engine, advancer: Advancer, queue: str) -> None:
    task = _wide(engine, queue, 10, concurrency=2)

    assert advancer.advance([task.id]).published == 2
    assert advancer.advance([task.id]).published == 0


def test_while_a_task_is_failing_nothing_more_is_released(
    engine: Engine, advancer: Advancer, redis: Redis, queue: str
) -> None:
    task = _wide(engine, queue, 3)
    [failed] = task.begin("s0")
    task.begin("s1")
    task.record([failed], "FAILED")

    assert advancer.advance([task.id]).published == 0
    assert redis.llen(queue) == 0


def test_a_high_priority_is_published_first(
    engine: Engine, app: Celery, redis: Redis, queue: str, settings: Settings
) -> None:
    low = _wide(engine, queue, 3, priority=1)
    high = _wide(engine, queue, 2, priority=9)

    full = Dispatcher(engine, app, redis, settings, name="test-server")._publish()

    assert full == {queue}
    assert [message.task_id for message in _messages(redis, queue)] == [high.id, high.id, low.id, low.id]


def test_what_vanished_from_the_broker_is_published_again(
    engine: Engine, dispatcher: Dispatcher, redis: Redis, queue: str
) -> None:
    task = _wide(engine, queue, 2)
    dispatcher.wake()
    eventually(lambda: redis.llen(queue) == 2, what="not published")
    before = {message.carrier for message in _messages(redis, queue)}

    redis.delete(queue)

    eventually(lambda: redis.llen(queue) == 2, what="not published again")
    after = {message.carrier for message in _messages(redis, queue)}
    assert not before & after
    assert task.progress().ready == 2


def test_a_backlog_that_nobody_takes_is_not_published_twice(
    engine: Engine, dispatcher: Dispatcher, redis: Redis, queue: str, settings: Settings
) -> None:
    task = _wide(engine, queue, 20)
    dispatcher.wake()
    eventually(lambda: redis.llen(queue) == settings.window_per_slot, what="not published")
    carriers = {message.carrier for message in _messages(redis, queue)}

    other = _wide(engine, f"{queue}-other", 1)
    dispatcher.wake()
    eventually(lambda: redis.llen(f"{queue}-other") == 1, what="not published")
    redis.delete(f"{queue}-other")
    eventually(lambda: redis.llen(f"{queue}-other") == 1, what="no look for what is lost")

    assert {message.carrier for message in _messages(redis, queue)} == carriers
    assert task.progress().ready == settings.window_per_slot
    assert other.progress().ready == 1
    redis.delete(f"{queue}-other")


def test_a_full_queue_does_not_keep_another_queue_waiting(
    engine: Engine, dispatcher: Dispatcher, redis: Redis, queue: str, settings: Settings
) -> None:
    redis.lpush(queue, *["{}"] * settings.window_per_slot)
    for _ in range(205):
        _wide(engine, queue, 1)
    late = _wide(engine, f"{queue}-other", 1)

    dispatcher.wake()

    eventually(lambda: late.states() == {"s0": "READY"}, within=4, what="starved")
    redis.delete(f"{queue}-other")


def test_a_task_that_somebody_holds_keeps_no_other_waiting(
    engine: Engine, dispatcher: Dispatcher, redis: Redis, queue: str
) -> None:
    held = _wide(engine, queue, 1)
    free = _wide(engine, queue, 1)
    with held.locked():
        dispatcher.wake()
        eventually(lambda: free.states() == {"s0": "READY"}, within=4, what="kept waiting")

    eventually(lambda: held.states() == {"s0": "READY"}, within=4, what="forgotten")
    eventually(lambda: redis.llen(queue) == 2, within=4, what="not published")


def test_a_fault_in_one_task_keeps_no_other_from_being_rescued(
    engine: Engine, redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [make_task(engine, {"a": ()}) for _ in range(2)]
    for task in tasks:
        task.begin("a")
        task.set("a", "started_at = now() - interval '1 hour'")
    rescue = rescues.rescue

    def poisoned(connection: Connection, lost: LostClaim, *, seen: None) -> list[SubtaskId]:
        if lost.task == tasks[0].id:
            raise ValueError("poisoned")
        return rescue(connection, lost, seen=seen)

    monkeypatch.setattr(rescues, "rescue", poisoned)
    rescuer = Rescuer(engine, redis, settings.model_copy(update={"dead_after_seconds": 0.5}))

    eventually(lambda: rescuer.look() or tasks[1].states() == {"a": "PENDING"}, what="not rescued")
    assert tasks[0].states() == {"a": "RUNNING"}


def test_a_delayed_start_comes_by_itself(engine: Engine, dispatcher: Dispatcher, redis: Redis, queue: str) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"queue": queue, "max_attempts": 2}})
    task.run("a", verdict="RETRY", delay_seconds=0.2)

    eventually(lambda: redis.llen(queue) == 1, what="not published")


def test_a_message_still_in_the_queue_keeps_what_was_released_after_it(
    engine: Engine, advancer: Advancer, redis: Redis, queue: str, settings: Settings
) -> None:
    task = _wide(engine, queue, 2)
    advancer.advance([task.id])
    execute(engine, "UPDATE subtasks SET released_at = released_at + interval '10 seconds'")

    Rescuer(engine, redis, settings)._recall_from(queue)

    assert task.progress().ready == 2


def test_what_a_queue_has_moved_past_is_recalled(
    engine: Engine, advancer: Advancer, redis: Redis, queue: str, settings: Settings
) -> None:
    task = _wide(engine, queue, 2)
    advancer.advance([task.id])
    redis.rpop(queue)
    execute(
        engine, "UPDATE subtasks SET released_at = released_at - interval '1 minute' WHERE id = :id", id=task.ids["s0"]
    )

    Rescuer(engine, redis, settings)._recall_from(queue)

    assert task.states() == {"s0": "PENDING", "s1": "READY"}


def test_a_foreign_message_at_the_head_of_a_queue_recalls_nothing(
    engine: Engine, advancer: Advancer, redis: Redis, queue: str, settings: Settings
) -> None:
    task = _wide(engine, queue, 1)
    advancer.advance([task.id])
    execute(engine, "UPDATE subtasks SET released_at = released_at - interval '1 minute'")
    redis.delete(queue)
    redis.rpush(queue, "not json")

    Rescuer(engine, redis, settings)._recall_from(queue)

    assert task.progress().ready == 1


def test_the_judge_of_silence_watches_for_as_long_before_it_judges(
    engine: Engine, redis: Redis, settings: Settings
) -> None:
    task = make_task(engine, {"a": ()})
    task.begin("a")
    task.set("a", "started_at = now() - interval '1 hour'")
    with transaction(engine) as connection:
        assert rescues.find_lost_claims(connection, silence_seconds=0.5, limit=10)
    rescuer = Rescuer(engine, redis, settings.model_copy(update={"dead_after_seconds": 0.5}))

    rescuer.look()
    rescuer.look()
    assert task.states() == {"a": "RUNNING"}
    eventually(lambda: rescuer.look() or task.states() == {"a": "PENDING"}, what="not rescued")

    assert [attempt["outcome"] for attempt in task.attempts("a")] == ["LOST"]


def test_an_outage_breaks_the_watch_of_the_judge(engine: Engine, redis: Redis, settings: Settings) -> None:
    task = make_task(engine, {"a": (), "b": ()})
    task.begin("a")
    task.set("a", "started_at = now() - interval '1 hour'")
    rescuer = Rescuer(engine, redis, settings.model_copy(update={"dead_after_seconds": 0.5}))
    eventually(lambda: rescuer.look() or task.states()["a"] == "PENDING", what="not rescued")
    task.begin("b")
    task.set("b", "started_at = now() - interval '1 hour'")

    rescuer.stalled()
    rescuer.look()

    assert task.states()["b"] == "RUNNING"


def _fragment(*queues: str, body: str | None = None) -> Fragment:
    units = tuple(Unit((number,), queue, straight=True) for number, queue in enumerate(queues))
    step = units[0] if body is None else Chord(units, Unit((99,), body, straight=True))
    return Fragment((step,))


def test_fragments_are_chosen_in_order_while_there_is_room() -> None:
    one, two, three = _fragment("a"), _fragment("a"), _fragment("a")

    assert choose([one, two, three], {"a": 2}) == ([one, two], {"a"})
    assert choose([one, two, three], {"a": 3}) == ([one, two, three], set())
    assert choose([one], {"a": 0}) == ([], {"a"})
    assert choose([one], {}) == ([], {"a"})
    assert choose([], {"a": 2}) == ([], set())


def test_a_full_queue_does_not_hold_the_fragments_of_another() -> None:
    blocked, free = _fragment("full"), _fragment("free")

    assert choose([blocked, free], {"full": 0, "free": 1}) == ([free], {"full"})


def test_a_header_wider_than_the_window_goes_when_the_window_is_free() -> None:
    wide, narrow = _fragment(*["a"] * 10, body="a"), _fragment("a")

    assert choose([wide, narrow], {"a": 4}) == ([wide], {"a"})
    assert choose([narrow, wide], {"a": 4}) == ([narrow, wide], set())


def test_the_body_of_a_chord_needs_no_room_yet() -> None:
    chord = _fragment("a", "a", body="full")

    assert choose([chord], {"a": 2, "full": 0}) == ([chord], set())


def test_a_header_over_two_queues_needs_room_in_both() -> None:
    chord = _fragment("a", "b", body="a")

    assert choose([chord], {"a": 2, "b": 0}) == ([], {"b"})
    assert choose([chord], {"a": 1, "b": 1}) == ([chord], set())
