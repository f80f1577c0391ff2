"""What a look sees to beside the work itself.

Verbs that turn many subtasks, instances that nobody holds and somebody waits for, keys that are too old.
"""

import time
from collections import deque

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from structlog import get_logger

from schema.database import transaction
from schema.identity import TaskId
from schema.transitions import continuations, duplicates, idempotency, turning
from taskserver.dispatcher.isolation import isolated

_KEYS_OF_A_LOOK = 1_000
_DELETE_SECONDS = 60.0
_MOST_DELETED = 5_000
_TURNED_TASKS = 20
_TURN_SECONDS = 0.2  # what waits for a release waits that long, and a portion longer
_log = get_logger("taskserver.dispatcher")


class Upkeep:
    """Called at each look of one dispatcher; several servers may do it at the same time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._looked_until = ""
        self._next_delete = 0.0

    def look(self) -> None:
        """Do what is due, a bounded portion of it."""
        self._adopt_waiting()
        if time.monotonic() >= self._next_delete:
            self._delete_old_keys()

    def turn(self) -> bool:
        """Go on with verbs that turn many subtasks, for a moment; tell whether something of them is left to do here."""
        until = time.monotonic() + _TURN_SECONDS
        with transaction(self._engine) as connection:
            line = deque(turning.unfinished_tasks(connection, limit=_TURNED_TASKS))
        while line and time.monotonic() < until:
            task = line.popleft()
            if self._turn(task):
                line.append(task)
        return bool(line)

    def _turn(self, task: TaskId) -> bool:
        with isolated(_log, action="turn", task=task), transaction(self._engine) as connection:
            return continuations.go_on(connection, task)
        return False  # it failed; the next look tries again

    def _adopt_waiting(self) -> None:
        """Help on what queued in the moment in which its holder settled."""
        with transaction(self._engine) as connection:
            keys, self._looked_until = duplicates.orphaned_keys(
                connection, after=self._looked_until, limit=_KEYS_OF_A_LOOK
            )
        for key in keys:
            with isolated(_log, action="adopt", key=key):
                self._adopt(key)

    def _adopt(self, key: str) -> None:
        try:
            with transaction(self._engine) as connection:
                task = duplicates.adopt(connection, key)
        except IntegrityError:
            _log.info("another task took the instance first", action="adopt", key=key)
            return
        if task is not None:
            _log.info("a waiting task has its instance", action="adopt", key=key, task=task)

    def _delete_old_keys(self) -> None:
        with transaction(self._engine) as connection:
            deleted = idempotency.delete_old_keys(connection, limit=_MOST_DELETED)
        pause = 0.0 if deleted == _MOST_DELETED else _DELETE_SECONDS
        self._next_delete = time.monotonic() + pause
