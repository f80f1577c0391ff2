"""What one worker is made of: in the main process the registration and the heart, in each pool process a runner."""

import os
import socket
import threading
from collections.abc import Sequence
from importlib.metadata import version

from celery import Celery
from sqlalchemy import Engine
from structlog import get_logger

from schema.collection import settle_collector
from schema.database import make_engine, transaction
from schema.errors import Unavailable
from schema.identity import SubtaskId, TaskId
from schema.settings import Settings
from schema.transitions import registrations, rescues
from schema.transitions.logs import LogRow, write_logs
from schema.transitions.registrations import WorkerInfo
from schema.transitions.rescues import LostClaim, Seen
from workers.alarm import ignore_rings
from workers.attempt import AttemptRunner
from workers.audience import Audience
from workers.beat import Heart
from workers.canceler import Canceler
from workers.capture import Capture
from workers.definitions import register_definitions
from workers.descendants import kill_descendants
from workers.events import EventSender, TaskEvents, tell_fates
from workers.failures import TimedOut
from workers.killer import Killer
from workers.log_sink import LogFlusher
from workers.registry import Registry, load_handlers
from workers.revoker import Revocation, Revoker
from workers.runner import UnitRunner
from workers.slots import Held, Slots

CODE_VERSION = version("taskserver")
_PAUSE_SECONDS = 0.5
_CONNECTIONS = 3  # the runner, its watchdog, the log's flusher
_log = get_logger("taskserver.worker")


class Runtime:
    """One worker; made at import, filled by Celery's signals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registry: Registry | None = None
        self._slots: Slots | None = None
        self._heart: Heart | None = None
        self._canceler: Canceler | None = None
        self._revoker: Revoker | None = None
        self._killer: Killer | None = None
        self._runner: UnitRunner | None = None
        self._audience = Audience()
        self._events: TaskEvents | None = None
        self._name = ""

    def load_handlers(self) -> frozenset[str]:
        """Import the handlers; return the queues that their kinds use. In the main process, before the pool forks."""
        self._registry = load_handlers(self._settings.handlers)
        return frozenset(kind.queue for kind in self._registry.kinds())

    def register(self, *, name: str, concurrency: int, queues: Sequence[str]) -> None:
        """Register kinds and worker; in the main process, before the pool forks."""
        assert self._registry is not None
        self._slots = Slots(concurrency)
        self._name = name
        engine = self._engine("worker-main")
        with transaction(engine) as connection:  # on their own: another worker's definitions may wait for these kinds
            registrations.register_kinds(connection, self._registry.kinds(), code_version=CODE_VERSION)
        with transaction(engine) as connection:
            worker = WorkerInfo(
                id=registrations.draw_process_number(connection),
                name=name,
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=queues,
                concurrency=concurrency,
                code_version=CODE_VERSION,
                kinds=self.kinds(),
            )
            register_definitions(connection, self._registry.definitions(), self._settings, creator=name)
            registrations.register_worker(connection, worker)
        self._heart = Heart(engine, self._slots, worker, seconds=self._settings.beat_seconds)
        grace = self._settings.cancel_grace_seconds
        self._canceler = Canceler(engine, self._slots, grace_seconds=grace)
        self._revoker = Revoker(engine)
        self._killer = Killer(self._slots, grace_seconds=grace)
        settle_collector()

    def start_heart(self) -> None:
        """Begin to beat, to cancel what is revoked, to ask what is cancelled to stop, and to kill what overran.

        In the main process, once it takes messages.
        """
        for one in (self._killer, self._heart, self._canceler, self._revoker):
            if one is not None:
                one.start()

    def stop_heart(self) -> None:
        """Stop all of that; in the main process, once the pool has ended."""
        self._audience.stop()
        for one in (self._revoker, self._canceler, self._heart, self._killer):
            if one is not None:
                one.stop()

    def watch_audience(self, app: Celery) -> None:
        """Begin to tell of subtasks while somebody listens; in the main process."""
        if self._settings.task_events:
            self._audience.start(EventSender(app, self._name).send)

    def audience_arrives(self) -> None:
        """Say that somebody may listen from now on; in the main process."""
        self._audience.arrives()

    def kinds(self) -> list[str]:
        """Return the names of the kinds that the worker runs."""
        return sorted(kind.name for kind in self._registry.kinds()) if self._registry is not None else []

    def running(self) -> dict[int, int]:
        """Return which subtask each pool process works on, by its pid; in the main process."""
        slots = self._slots
        held = [slots[index].read() for index in range(len(slots))] if slots is not None else []
        return {one.pid: one.begun for one in held if one.begun}

    def cancel_requested(self, hex_ids: Sequence[str], *, actor: str) -> Revocation | None:
        """Cancel tasks and subtasks, named by their hex ids, in the name of `actor`; in the main process.

        Return what became of it; None where that is not known at once.
        """
        assert self._revoker is not None
        return self._revoker.revoke(hex_ids, actor=actor)

    def enter_process(self, index: int, app: Celery) -> None:
        """Make a pool process ready to run units, and bring back what its dead predecessor held."""
        assert self._slots is not None
        assert self._registry is not None
        engine = self._engine("worker")
        process = _draw_process_number(engine)
        slot = self._slots[index]
        ignore_rings()
        left = slot.take_over(process, os.getpid())
        Capture().install()
        flusher = LogFlusher(lambda rows: _write_logs(engine, rows))
        attempts = AttemptRunner(self._registry, flusher, self._settings, end_programs=kill_descendants)
        executor = f"{socket.gethostname()}:{os.getpid()}"
        self._events = TaskEvents(
            EventSender(app, self._name).send, hostname=self._name, listens=self._audience.listens
        )
        self._runner = UnitRunner(
            engine, attempts, slot, self._settings, self._events, process=process, executor=executor
        )
        if left is not None:
            self._rescue(engine, self._events, left)

    def leave_process(self) -> None:
        """Part with what a pool process has not told yet."""
        if self._events is not None:
            self._events.stop()

    def unit_runner(self) -> UnitRunner:
        """Return this pool process' runner."""
        if self._runner is None:
            raise RuntimeError("units run in prefork pool processes only: start the worker with --pool prefork")
        return self._runner

    def _rescue(self, engine: Engine, events: TaskEvents, left: Held) -> None:
        lost = LostClaim(TaskId(left.task), left.claim, left.process)
        seen = Seen(
            SubtaskId(left.begun) if left.begun else None,
            timed_out=left.was_killed,
            final_timeouts=self._final_timeouts(),
        )
        try:
            with transaction(engine) as connection:
                ids = rescues.rescue(connection, lost, seen=seen)
        except Unavailable:
            return  # the claim is in no beat any more: a dispatcher finds it
        if ids:
            _log.warning("claim rescued", action="rescue", task=left.task, claim=left.claim, subtasks=len(ids))
            tell_fates(engine, events, ids)

    def _final_timeouts(self) -> frozenset[str]:
        """Return the kinds of which a timeout is not worth another attempt."""
        registry = self._registry
        assert registry is not None
        overrun = TimedOut()
        return frozenset(kind for kind in self.kinds() if not registry.find(kind).retryable.covers(overrun))

    def _engine(self, name: str) -> Engine:
        return make_engine(
            self._settings.require_database(), name=f"taskserver-{name}", pool_size=_CONNECTIONS, by_id=True
        )


def _draw_process_number(engine: Engine) -> int:
    """Return a number for this process, as soon as PostgreSQL answers: it takes no message before."""
    while True:
        try:
            with transaction(engine) as connection:
                return registrations.draw_process_number(connection)
        except Unavailable as error:
            _log.warning("PostgreSQL is away", action="enter_process", error=str(error))
            threading.Event().wait(_PAUSE_SECONDS)


def _write_logs(engine: Engine, rows: Sequence[LogRow]) -> None:
    with transaction(engine) as connection:
        write_logs(connection, rows)
