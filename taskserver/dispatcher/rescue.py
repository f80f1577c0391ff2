"""Looking for what was lost: claims that no live process holds, and released units whose message is gone."""

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from redis import Redis
from sqlalchemy import Engine
from structlog import get_logger

from schema.database import transaction
from schema.identity import SubtaskId
from schema.settings import Settings
from schema.transitions import rescues
from schema.wire import RELEASED_AT_HEADER
from taskserver.dispatcher.isolation import isolated

_BATCH = 500
_log = get_logger("taskserver.dispatcher")


class Rescuer:
    """Judges silence; trusts its own judgement only after it has itself been watching without a stall."""

    def __init__(
        self,
        engine: Engine,
        redis: Redis,
        settings: Settings,
        *,
        tell: Callable[[Sequence[SubtaskId]], None] | None = None,
    ) -> None:
        self._engine = engine
        self._tell = tell
        self._redis = redis
        self._settings = settings
        self._watching_since: float | None = None
        self._looked = 0.0

    def stalled(self) -> None:
        """Say that the watch was broken: PostgreSQL was away, or this process stood still."""
        self._watching_since = None

    def look(self) -> None:
        """Rescue what is lost. Called about once a second; a long gap between calls breaks the watch."""
        now = time.monotonic()
        if self._watching_since is None or now - self._looked > self._settings.dead_after_seconds:
            self._watching_since = now
        self._looked = now
        if now - self._watching_since >= self._settings.dead_after_seconds:
            self._rescue_claims()
        self._recall_units()

    def _rescue_claims(self) -> None:
        silence = self._settings.dead_after_seconds
        with transaction(self._engine) as connection:
            lost = rescues.find_lost_claims(connection, silence_seconds=silence, limit=_BATCH)
        for claim in lost:
            ids: list[SubtaskId] = []
            with isolated(_log, action="rescue", task=claim.task), transaction(self._engine) as connection:
                ids = rescues.rescue(connection, claim, seen=None)
            _log.warning("claim rescued", action="rescue", task=claim.task, claim=claim.claim, subtasks=len(ids))
            if self._tell is not None:
                self._tell(ids)

    def _recall_units(self) -> None:
        age = self._settings.lost_after_seconds
        with transaction(self._engine) as connection:
            queues = rescues.queues_with_old_releases(connection, age_seconds=age)
        for queue in queues:
            self._recall_from(queue)

    def _recall_from(self, queue: str) -> None:
        with transaction(self._engine) as connection:
            now = rescues.database_time(connection)
        oldest = self._oldest_message(queue, now)
        horizon = oldest - timedelta(seconds=self._settings.lost_after_seconds)
        with transaction(self._engine) as connection:
            lost = rescues.find_lost_units(
                connection,
                queue,
                horizon=horizon,
                silence_seconds=self._settings.dead_after_seconds,
                limit=_BATCH,
            )
        for unit in lost:
            ids: list[SubtaskId] = []
            with isolated(_log, action="recall", task=unit.task), transaction(self._engine) as connection:
                ids = rescues.recall_lost(connection, unit)
            _log.warning("message lost", action="recall", task=unit.task, carrier=unit.carrier, subtasks=len(ids))

    def _oldest_message(self, queue: str, now: datetime) -> datetime:
        """Return when the next message of the queue was planned; all published before that has been taken.

        A chain's later messages bear the time of their fragment's release, which errs on the side of waiting.
        """
        raw = self._redis.lindex(queue, -1)
        if raw is None:
            return now
        try:
            return datetime.fromtimestamp(float(json.loads(raw)["headers"][RELEASED_AT_HEADER]), UTC)
        except (KeyError, TypeError, ValueError):
            return now - timedelta(days=1)
