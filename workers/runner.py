"""Running one unit: claim, run, record, and so on until the unit is done, gives way, or has lost its claims.

Small steps, each a transaction of its own; what a step decided is in the database before the next begins. When PostgreSQL
is away the process keeps its finished outcomes and waits: the outage rescues nobody, so the claim is still good.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Engine
from structlog import get_logger

from schema.database import transaction
from schema.errors import Unavailable
from schema.identity import SubtaskId, TaskId
from schema.settings import Settings
from schema.states import Operation
from schema.transitions import cancellations, claims, declining, progress, registrations, steps
from schema.transitions.claims import Claimed, Wanted
from schema.transitions.records import Recorded
from schema.transitions.steps import Ended
from schema.wire import UnitMessage
from workers.attempt import AttemptRunner, Finished, Inputs
from workers.events import TaskEvents, tell_fates
from workers.pace import Pace
from workers.slots import NEVER, Slot
from workers.watchdog import Watchdog

_log = get_logger("taskserver.worker")
_T = TypeVar("_T")
_FIRST_PAUSE_SECONDS = 0.1
_MOST_PAUSE_SECONDS = 2.0


class HeldUnit:
    """What is left of one unit. The lock is held only to move things between its lists."""

    def __init__(self, message: UnitMessage) -> None:
        self.message = message
        self.lock = threading.Lock()
        self.unclaimed: list[SubtaskId] = [SubtaskId(one) for one in message.ids]
        self.unbegun: list[Claimed] = []
        self.declined: frozenset[SubtaskId] = frozenset()
        self.finished: list[Finished] = []
        self.claim = 0
        self.backwards = False
        self.kind = ""
        self.inputs = Inputs()
        self.clean = True

    @property
    def task(self) -> TaskId:
        """Return the task that the unit belongs to."""
        return TaskId(self.message.task_id)

    def begin_next(self) -> Claimed | None:
        """Take the next claimed subtask; None when there is none, or it was given away."""
        with self.lock:
            return self.unbegun.pop(0) if self.unbegun else None

    def hold(self, batch: Sequence[Claimed]) -> None:
        """Take note of a claim."""
        with self.lock:
            taken = {one.id for one in batch} | self.declined
            self.unclaimed = [one for one in self.unclaimed if one not in taken]
            self.unbegun = list(batch)
            self.claim = batch[0].claim if batch else 0
            self.backwards = bool(batch) and batch[0].operation == Operation.ROLLBACK

    def give_away(self) -> tuple[list[Finished], list[Claimed], list[SubtaskId]]:
        """Part with the outcomes so far and with all that has not begun: what is claimed, and what is not."""
        with self.lock:
            finished, self.finished = self.finished, []
            unbegun, self.unbegun = self.unbegun, []
            unclaimed, self.unclaimed = self.unclaimed, []
            if unbegun or unclaimed:
                self.clean = False
            return finished, unbegun, unclaimed

    def keep(self, unbegun: list[Claimed]) -> None:
        """Take claimed subtasks back that could not be given away."""
        with self.lock:
            self.unbegun = unbegun

    def finish(self, kind: str, finished: Finished) -> None:
        """Take note of how the subtask begun last has ended."""
        with self.lock:
            self.kind = kind
            self.finished.append(finished)

    def take_finished(self) -> list[Finished]:
        """Part with the outcomes that are to be recorded."""
        with self.lock:
            finished, self.finished = self.finished, []
            return finished

    @property
    def may_give_way(self) -> bool:
        """Tell whether somebody else could run something of it now, or something has ended and is not recorded."""
        return not self.message.straight and bool(self.unbegun or self.unclaimed or self.finished)


class UnitRunner:
    """Runs units in one pool process, one after the other."""

    def __init__(
        self,
        engine: Engine,
        attempts: AttemptRunner,
        slot: Slot,
        settings: Settings,
        events: TaskEvents,
        *,
        process: int,
        executor: str,
    ) -> None:
        self._engine = engine
        self._events = events
        self._attempts = attempts
        self._slot = slot
        self._process = process
        self._executor = executor
        self._pace = Pace(settings.claim_batch_seconds)
        self._watchdog = Watchdog(settings.give_way_seconds)

    def run(self, message: UnitMessage, *, kind: str) -> bool:
        """Run a unit; tell whether all of it ended well, so that its canvas may go on.

        Args:
            message: What the broker brought.
            kind: The kind that the message names, a hint for the size of the first claim.

        """
        unit = HeldUnit(message)
        self._slot.begin_unit(message.task_id, message.carrier)
        try:
            with self._watchdog.watching(lambda: self._give_way(unit), enabled=not message.straight):
                self._claim_first(unit, kind)
                while unit.unbegun:
                    self._run_batch(unit)
                    self._record_and_claim(unit)
            return unit.clean
        finally:
            self._slot.end_unit()
            self._tell_pace()

    def _claim_first(self, unit: HeldUnit, kind: str) -> None:
        def step(connection: Connection, attempt: int) -> list[Claimed]:
            if attempt:
                progress.lock(connection, unit.task)
                return self._let_go(connection, unit)
            return self._prepare(connection, unit, steps.take(connection, unit.task, self._wanted(unit, kind)))

        self._hold(unit, self._persist(step))

    def _run_batch(self, unit: HeldUnit) -> None:
        clock = time.monotonic()
        while (claimed := unit.begin_next()) is not None:
            self._slot.begin(claimed.id, NEVER)  # before the look, so that whoever ends it for us does not miss that
            if not self._may_begin(unit, claimed):
                continue
            began = time.monotonic()
            self._watchdog.begin(may_give_way=unit.may_give_way)
            self._events.begun(unit.inputs.task, claimed)
            finished = self._attempts.run(claimed, unit.inputs, clock=clock, slot=self._slot)
            self._pace.observe(claimed.kind, time.monotonic() - began)
            unit.finish(claimed.kind, finished)
        self._watchdog.end()

    def _may_begin(self, unit: HeldUnit, claimed: Claimed) -> bool:
        """Tell whether a subtask may begin: it was not asked to stop; one that was ends here, if it has not been ended for us."""
        if not self._slot.is_stopping(claimed.claim):
            return True
        held = self._persist(
            lambda connection, _: cancellations.held_under(connection, process=self._process, claim=claimed.claim)
        )
        if claimed.id not in held:
            unit.clean = False
        elif held[claimed.id]:
            unit.finish(claimed.kind, self._attempts.forgo(claimed, unit.inputs))
        else:
            return True
        self._slot.end()
        return False

    def _record_and_claim(self, unit: HeldUnit) -> None:
        finished = unit.take_finished()
        ended = _ended(unit, finished)

        def step(connection: Connection, attempt: int) -> tuple[Recorded, list[Claimed]]:
            wanted = self._wanted(unit, unit.kind) if unit.unclaimed and not attempt else None
            recorded, batch = steps.record_and_take(connection, unit.task, ended, wanted)
            _note(unit, ended, recorded)
            return recorded, self._prepare(connection, unit, batch)

        if not ended.outcomes:
            self._hold(unit, [])
            return
        recorded, batch = self._persist(step)
        self._hold(unit, batch)
        self._tell(unit, finished, recorded)

    def _give_way(self, unit: HeldUnit) -> None:
        """Record what has ended and return what has not begun; runs in the watchdog's thread."""
        finished, unbegun, unclaimed = unit.give_away()
        ended = _ended(unit, finished)

        def step(connection: Connection, _: int) -> Recorded | None:
            recorded = None
            if ended.outcomes:
                recorded = steps.record(connection, unit.task, ended)
                _note(unit, ended, recorded)
            if unbegun or unclaimed:
                self._return(connection, unit, unbegun, unclaimed)
            return recorded

        recorded = self._persist(step)
        if recorded is not None:
            self._tell(unit, finished, recorded)
        if unbegun or unclaimed:
            _log.info("gave way", action="give_way", task=unit.task, subtasks=len(unbegun) + len(unclaimed))

    def _return(
        self, connection: Connection, unit: HeldUnit, unbegun: Sequence[Claimed], unclaimed: Sequence[SubtaskId]
    ) -> None:
        """Return what has not begun; what was asked to stop before it could begin has ended, and nobody else would say so."""
        progress.lock(connection, unit.task)
        rest = [*(one.id for one in unbegun), *unclaimed]
        returned = claims.hand_back(
            connection, unit.task, rest, carrier=unit.message.carrier, claim=unit.claim, process=self._process
        )
        kept = [self._attempts.forgo(one, unit.inputs) for one in unbegun if one.id not in returned]
        if kept:
            steps.record(connection, unit.task, _ended(unit, kept))

    def _tell(self, unit: HeldUnit, finished: Sequence[Finished], recorded: Recorded) -> None:
        """Tell of what is committed; what seems lost may have been recorded by a commit that was never answered."""
        self._events.ended(unit.inputs.task, finished, recorded)
        if lost := [one.outcome.id for one in finished if one.outcome.id not in recorded.ids]:
            tell_fates(self._engine, self._events, lost)

    def _hold(self, unit: HeldUnit, batch: list[Claimed]) -> None:
        unit.hold(batch)
        self._slot.hold(unit.claim)

    def _wanted(self, unit: HeldUnit, kind: str) -> Wanted:
        most = 1 if unit.message.straight else self._pace.batch(kind)
        return Wanted(unit.unclaimed[:most], self._process, self._executor)

    def _prepare(self, connection: Connection, unit: HeldUnit, batch: list[Claimed]) -> list[Claimed]:
        """Read what the claimed subtasks need; with none of them claimed the rest of the unit is let go."""
        if any(one.kind not in self._attempts.kinds for one in batch):
            batch = self._decline(connection, unit, batch)
        if batch:
            unit.inputs = self._attempts.load(connection, unit.task, batch)
        elif unit.unclaimed:
            self._let_go(connection, unit)
        return batch

    def _decline(self, connection: Connection, unit: HeldUnit, batch: list[Claimed]) -> list[Claimed]:
        """Leave to another worker what has no handler here, in all of the unit; return what was claimed and has one."""
        rest = {*unit.unclaimed, *(one.id for one in batch)}
        unit.declined = declining.decline(
            connection,
            unit.task,
            sorted(rest),
            self._attempts.kinds,
            carrier=unit.message.carrier,
            claim=batch[0].claim,
            process=self._process,
        )
        unit.clean = False
        _log.warning(
            "no handler here, left to another worker",
            action="decline",
            task=unit.task,
            subtasks=len(unit.declined),
            kinds=sorted({one.kind for one in batch if one.id in unit.declined}),
        )
        return [one for one in batch if one.id not in unit.declined]

    def _let_go(self, connection: Connection, unit: HeldUnit) -> list[Claimed]:
        """Return what this process took or was brought and will not run, also by a commit that was never answered."""
        claims.hand_back(
            connection, unit.task, unit.unclaimed, carrier=unit.message.carrier, claim=None, process=self._process
        )
        unit.clean = False
        unit.unclaimed = []
        return []

    def _tell_pace(self) -> None:
        if news := self._pace.news():
            try:
                with transaction(self._engine) as connection:
                    registrations.note_pace(connection, news)
            except Unavailable:
                _log.info("pace not told", action="pace", kinds=sorted(news))  # a hint, told again when it changes

    def _persist(self, step: Callable[[Connection, int], _T]) -> _T:
        """Run a step in a transaction until PostgreSQL answers; the step learns how often it was tried before."""
        attempt = 0
        while True:
            try:
                with transaction(self._engine) as connection:
                    return step(connection, attempt)
            except Unavailable as error:
                attempt += 1
                pause = min(_MOST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
                _log.warning("PostgreSQL is away", action="persist", attempt=attempt, error=str(error))
                threading.Event().wait(pause)


def _ended(unit: HeldUnit, finished: Sequence[Finished]) -> Ended:
    log_rows = [row for one in finished for row in one.sink.drain()]
    outcomes = [one.outcome for one in finished]
    return Ended(outcomes, log_rows, unit.claim, unit.message.carrier, backwards=unit.backwards)


def _note(unit: HeldUnit, ended: Ended, recorded: Recorded) -> None:
    if not recorded.clean:
        unit.clean = False
    for outcome in ended.outcomes:
        if outcome.id not in recorded.ids:
            _log.warning("claim was lost, result dropped", action="record", task=unit.task, subtask=outcome.id)
