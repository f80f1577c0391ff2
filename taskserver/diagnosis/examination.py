"""Examining one task: read what is stored, measure what is not, look again where only time can tell, and judge.

Changes nothing and takes no lock. Only where work seems to lie that a dispatcher or a worker should take does it look on for
some seconds: between two of their looks that is as it should be.
"""

import threading
import time
from dataclasses import replace

from redis import Redis
from sqlalchemy import Engine

from schema.identity import TaskId
from schema.settings import Settings
from taskserver.diagnosis.facts import Facts, Stored, Waits
from taskserver.diagnosis.judgement import Diagnosis, judge
from taskserver.diagnosis.measuring import measure_broker
from taskserver.diagnosis.service_rules import should_move
from taskserver.diagnosis.thresholds import WATCHED_SECONDS
from taskserver.queries.diagnosis import read_stored, reread_moving

_PAUSE_SECONDS = 0.25


def examine(engine: Engine, redis: Redis, settings: Settings, task: TaskId, *, account: str) -> Diagnosis:
    """Return why the task does not move, if it does not.

    Raises:
        NotFound: The account has no such task.
        Unavailable: PostgreSQL is away.

    """
    waits = Waits(settings.dead_after_seconds, settings.lost_after_seconds, settings.cancel_grace_seconds)
    stored = read_stored(engine, task, account=account, waits=waits)
    facts = Facts(stored, measure_broker(redis, _queues(stored)), waits)
    return judge(_watched(engine, redis, facts))


def _queues(stored: Stored) -> set[str]:
    return {one.queue for one in stored.groups}


def _watched(engine: Engine, redis: Redis, facts: Facts) -> Facts:
    """Look on while something should move; tell what did not, and how long. That something else moves tells nothing."""
    began, before = time.monotonic(), facts.stored.course.progress
    now = facts
    while should_move(now):
        watched = time.monotonic() - began
        if watched >= WATCHED_SECONDS:
            return replace(facts, unmoved=now.stored.groups, unmoved_seconds=watched)
        threading.Event().wait(_PAUSE_SECONDS)
        stored = reread_moving(engine, now.stored, waits=now.waits)
        if before.turning is not None and stored.course.progress.change_number != before.change_number:
            break  # the verb goes on, and until it has ended nothing else does
        now = replace(now, stored=stored, broker=measure_broker(redis, _queues(stored)))
    return facts
