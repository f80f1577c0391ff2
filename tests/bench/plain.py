"""The other side of the comparison: the same shapes as Celery's own chains and chords, with its usual settings."""

import os

from celery import Celery, chain, chord
from celery.result import AsyncResult

app = Celery("plain", broker=os.environ["TASKSERVER_REDIS_URL"], backend=os.environ["TASKSERVER_REDIS_URL"])
app.conf.update(
    task_default_queue="plain",
    task_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=4,
    worker_hijack_root_logger=False,
)


@app.task(name="plain.noop")
def noop(*_: object) -> None:
    return None


def chain40() -> list[AsyncResult]:
    return [chain(*(noop.si() for _ in range(40))).apply_async()]


def fan1000() -> list[AsyncResult]:
    return [chord([noop.si() for _ in range(1000)], noop.si()).apply_async()]


def dia100() -> list[AsyncResult]:
    diamonds = [chain(noop.si(), chord([noop.si() for _ in range(8)], noop.si())) for _ in range(100)]
    return [diamond.apply_async() for diamond in diamonds]


CASES = {"chain40": chain40, "fan1000": fan1000, "dia100": dia100}


def run(case: str, *, timeout: float) -> None:
    """Publish the case and wait until its last task has ended."""
    for result in CASES[case]():
        result.get(timeout=timeout, interval=0.005)
