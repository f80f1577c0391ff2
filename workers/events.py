"""Telling Flower, and whatever else listens to Celery's events, of each subtask: in bulk, and never in the way of one.

A unit only puts notes into a queue, and not even that while nobody listens. A thread of the pool process makes events of them
and publishes those together. When the broker is away the oldest are dropped and counted, and the units notice nothing.

What ends an attempt is told once its record has committed. Another process may run the next attempt at once and tell of it:
so the end of an attempt that may be followed is published without delay, and everything else only after a rest.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from celery import Celery
from kombu.connection import Connection
from sqlalchemy import Engine
from structlog import get_logger

from schema.celeryapp import publish_events
from schema.database import transaction
from schema.errors import Unavailable
from schema.identity import SubtaskId
from schema.inputs import TaskInfo
from schema.task_events import Event, Happening, Node, Send, events_of, read_fates, shown_error, shown_value
from schema.transitions.claims import Claimed
from schema.transitions.records import Outcome, Recorded
from workers.attempt import Finished

_MOST_WAITING = 20_000
_PER_MESSAGE = 200
_GATHER_SECONDS = 0.2
_REST_SECONDS = 0.1
_AWAY_SECONDS = 1.0
_END_SECONDS = 2.0
_WHAT = {"SUCCESSFUL": "succeeded", "FAILED": "failed", "RETRY": "retried"}
_log = get_logger("taskserver.worker")


class _Begin(NamedTuple):
    at: float
    task: TaskInfo
    claimed: Claimed


class _End(NamedTuple):
    at: float
    task: TaskInfo
    finished: Sequence[Finished]
    recorded: Recorded


_Note = _Begin | _End | Happening


class EventSender:
    """Publishes events on a connection of its own; used by one thread."""

    def __init__(self, app: Celery, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._connection: Connection | None = None
        self._channel: Any = None

    def send(self, events: Sequence[Event]) -> int:
        """Publish them in one message; return how many heard it.

        Raises:
            Exception: Whatever the transport raises while the broker is away; the next call connects again.

        """
        try:
            if self._channel is None:
                self._connection = self._app.connection_for_write()
                self._channel = self._connection.channel()
            publish_events(self._channel, events, hostname=self._hostname)
        except BaseException:
            self._close()
            raise
        heard: int = self._channel.heard
        return heard

    def _close(self) -> None:
        broken, self._connection, self._channel = self._connection, None, None
        if broken is not None:
            with suppress(Exception):  # it is of no use any more, and says so in as many ways as there are
                broken.release()  # type: ignore[no-untyped-call]


class TaskEvents:
    """What happens to the subtasks of one pool process, for those who listen."""

    def __init__(
        self, send: Send, *, hostname: str, listens: Callable[[], bool], most_waiting: int = _MOST_WAITING
    ) -> None:
        self._send = send
        self._hostname = hostname
        self._listens = listens
        self._most_waiting = most_waiting
        self._notes: deque[_Note] = deque()
        self._untold: list[Happening] = []
        self._dropped = 0
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def begun(self, task: TaskInfo, claimed: Claimed) -> None:
        """Say that an attempt begins."""
        if self._listens():
            self._note(_Begin(time.time(), task, claimed))

    def ended(self, task: TaskInfo, finished: Sequence[Finished], recorded: Recorded) -> None:
        """Say how attempts ended, once that is committed; of a claim that was lost, whoever took it tells."""
        if self._listens():
            self._note(_End(time.time(), task, finished, recorded))
            if not recorded.clean:
                self._hurry.set()

    def happened(self, happening: Happening) -> None:
        """Say what somebody else has recorded."""
        if self._listens():
            self._note(happening)
            self._hurry.set()

    def stop(self) -> None:
        """Publish what waits, and end; gives up soon when the broker is away."""
        self._stopping.set()
        self._hurry.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)

    def _note(self, note: _Note) -> None:
        """Put a note into the queue: all that a unit has to spend time on."""
        if len(self._notes) >= self._most_waiting:
            with suppress(IndexError):  # the thread has taken them all in between
                self._notes.popleft()
                self._dropped += 1
        self._notes.append(note)
        if not self._some.is_set():
            self._some.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set() or self._notes:
            self._some.wait()
            hurried = self._hurry.wait(_GATHER_SECONDS)
            self._hurry.clear()
            notes = self._take(until=math.inf if hurried else time.time() - _REST_SECONDS)
            if not self._tell(notes) and self._stopping.wait(_AWAY_SECONDS):
                return

    def _take(self, *, until: float) -> list[_Note]:
        """Take the notes that are old enough."""
        taken: list[_Note] = []
        with suppress(IndexError):  # that was all, or the oldest was dropped just now
            while self._notes[0][0] <= until:
                taken.append(self._notes.popleft())
        if not self._notes and not self._untold:
            self._some.clear()
            if self._notes:  # put there in between, by who found us awake
                self._some.set()
        return taken

    def _tell(self, notes: Sequence[_Note]) -> bool:
        """Publish what the notes say; False when the broker is away, and it must be tried again."""
        self._keep([happening for note in notes for happening in _happenings(note)])
        while self._untold:
            told = self._untold[:_PER_MESSAGE]
            try:
                self._send([event for one in told for event in events_of(one, hostname=self._hostname)])
            except Exception as error:  # noqa: BLE001 - whatever it is, subtasks run as well without being watched
                _log.info("events not published", action="events", error=repr(error))
                self._some.set()
                return False
            del self._untold[:_PER_MESSAGE]
        self._tell_dropped()
        return True

    def _keep(self, happenings: Sequence[Happening]) -> None:
        """Keep what is to be told: small values, while notes hold arguments and results."""
        self._untold.extend(happenings)
        if (surplus := len(self._untold) - self._most_waiting) > 0:
            del self._untold[:surplus]
            self._dropped += surplus

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("events dropped: Flower misses something", action="events", dropped=dropped)


def _happenings(note: _Note) -> list[Happening]:
    match note:
        case _Begin(at=at, task=task, claimed=claimed):
            return [Happening(at, "begun", _node(task, claimed))]
        case _End(at=at, task=task, finished=finished, recorded=recorded):
            held = [one for one in finished if one.outcome.id in recorded.ids]
            return [_ending(at, task, one, recorded) for one in held]
        case _:
            return [note]


def _node(task: TaskInfo, claimed: Claimed) -> Node:
    members = (claimed.series_id, claimed.key, claimed.kind, claimed.attempt, claimed.operation)
    return Node(task.id, task.hex_id, *members)


def _ending(at: float, task: TaskInfo, finished: Finished, recorded: Recorded) -> Happening:
    outcome = finished.outcome
    what = "revoked" if outcome.id in recorded.canceled else _WHAT[outcome.verdict]
    seconds = (outcome.finished_at - outcome.started_at).total_seconds()
    return Happening(at, what, _node(task, finished.claimed), seconds, _shown(outcome, redacted=task.redacts))


def _shown(outcome: Outcome, *, redacted: bool) -> str:
    if outcome.verdict == "SUCCESSFUL":
        return shown_value(outcome.result, redacted=redacted)
    return shown_error(outcome.error_type, outcome.error_message, redacted=redacted)


def tell_fates(engine: Engine, events: TaskEvents, ids: Sequence[SubtaskId]) -> None:
    """Tell how attempts have ended whose record this process did not write itself, or does not know to have written."""
    try:
        with transaction(engine) as connection:
            fates = read_fates(connection, ids)
    except Unavailable as error:
        _log.info("events not read", action="events", error=str(error))
        return
    for _, happening in fates:
        events.happened(happening)
