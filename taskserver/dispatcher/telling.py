"""Telling Flower how attempts ended that the dispatcher had to record, because the worker that ran them is gone."""

from collections import defaultdict
from collections.abc import Sequence

from celery import Celery
from sqlalchemy import Engine

from schema.celeryapp import publish_events
from schema.database import transaction
from schema.identity import SubtaskId
from schema.settings import Settings
from schema.task_events import Event, events_of, read_fates

_NOBODY = "taskserver@lost"


class Teller:
    """Publishes Celery events in the name of workers that cannot any more."""

    def __init__(self, engine: Engine, app: Celery, settings: Settings) -> None:
        self._engine = engine
        self._app = app
        self._enabled = settings.task_events

    def tell(self, ids: Sequence[SubtaskId]) -> None:
        """Tell how the last attempts of these subtasks ended.

        Raises:
            Unavailable: PostgreSQL is away.
            kombu.exceptions.OperationalError: The broker is away.

        """
        if not ids or not self._enabled:
            return
        with transaction(self._engine) as connection:
            fates = read_fates(connection, ids)
        events: dict[str, list[Event]] = defaultdict(list)
        for worker, happening in fates:
            hostname = worker or _NOBODY
            events[hostname].extend(events_of(happening, hostname=hostname))
        with self._app.pool.acquire(block=True) as connection, connection.channel() as channel:
            for hostname, told in events.items():
                publish_events(channel, told, hostname=hostname)
