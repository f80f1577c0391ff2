"""The beat of a worker's main process."""

import os

from sqlalchemy import Engine

from schema.database import transaction
from schema.transitions.registrations import WorkerInfo, live_capacity, register_worker
from tests.factories import execute, many
from workers.beat import Heart
from workers.slots import Slots

WORKER = WorkerInfo(id=7, name="w", host="h", pid=1, queues=["default"], concurrency=2, code_version="")


def slots_of(engine: Engine) -> dict[str, int]:
    with transaction(engine) as connection:
        return {queue: one.slots for queue, one in live_capacity(connection, silence_seconds=5).items()}


def test_a_beat_lists_what_the_living_processes_hold(engine: Engine) -> None:
    slots = Slots(2)
    slots[0].take_over(process=3, pid=os.getpid())
    slots[0].begin_unit(task=1, carrier=99)
    slots[0].hold(claim=12)
    slots[1].take_over(process=4, pid=2**22 + 1)  # beyond the largest pid
    slots[1].begin_unit(task=1, carrier=98)
    slots[1].hold(claim=11)

    beat = Heart(engine, slots, WORKER, seconds=1).listen()

    assert (beat.processes, beat.claims, beat.carriers, beat.started) == ([3], [12], [99], 2)


def test_a_worker_whose_row_is_gone_registers_again(engine: Engine) -> None:
    with transaction(engine) as connection:
        register_worker(connection, WORKER)
    execute(engine, "DELETE FROM workers")

    Heart(engine, Slots(1), WORKER, seconds=1)._beat()

    assert slots_of(engine) == {"default": 2}


def test_a_worker_that_stopped_offers_nothing(engine: Engine) -> None:
    with transaction(engine) as connection:
        register_worker(connection, WORKER)
    heart = Heart(engine, Slots(1), WORKER, seconds=60)
    heart.start()

    heart.stop()

    assert slots_of(engine) == {}
    assert [row["stopped_at"] is not None for row in many(engine, "SELECT stopped_at FROM workers")] == [True]
