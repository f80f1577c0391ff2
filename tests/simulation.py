"""A small world around the transitions: dispatchers, a broker that keeps no promise, workers that die, and time.

It moves by one small step at a time, as a seeded generator decides: the same seed tells the same story. Units behave as the
worker's runner does, canvases as Celery does: a chain goes on from a clean unit only, a chord's header counts whatever became
of it. Operators use verbs that fit, and now and then one that does not, which must change nothing.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Engine, text

from schema.database import transaction
from schema.identity import SubtaskId, TaskId
from schema.instances import duplicate_key
from schema.transitions import (
    cancellations,
    claims,
    continuations,
    declining,
    progress,
    records,
    releases,
    rescues,
    turning,
)
from schema.transitions.claims import Claimed
from schema.transitions.records import Verdict
from schema.transitions.rescues import LostClaim, LostUnit, Seen
from taskserver.canvas import Publication
from taskserver.control import operate
from taskserver.dispatcher.advance import Advancer
from taskserver.planner import Chord
from tests.factories import StoredTask, claim_within, execute, make_task, many, outcome
from tests.operators import AFTER, OPERATOR, Use, Way, audit, refused, uses

QUEUES = ("default", "slow")
VERDICTS: Sequence[Verdict] = ("SUCCESSFUL", "SUCCESSFUL", "SUCCESSFUL", "RETRY", "FAILED", "FAILED")
_NO_HANDLER = 0.05  # how often a process has no handler for what it claimed
# How often a verb is chosen where it fits; those that end a task for good leave nothing to try the others on.
_FAVOUR = {"cancel task": 1, "abandon task": 3, "pause task": 2, "resume task": 8, "rollback task": 12}
_HINDERED = {"state": 1, "busy": 60, "undoing": 1}  # and where it does not
_FAVOUR_BACKWARDS = {"skip subtask": 60, "rollback task": 20, "cancel task": 1, "abandon task": 1, "pause task": 2}
_FAVOURED = 6
_MENDING = {"retry", "skip", "rollback"}
_FEW = 4
_BEGUN = 0.7
# An undoing has no deadline.
_DEADLINE = """
    UPDATE tasks SET deadline_at = now()
    WHERE id = :id AND NOT EXISTS (SELECT FROM task_progress p WHERE p.id = tasks.id AND p.undoing IS NOT NULL)
"""


@dataclass
class Canvas:
    """A published fragment: its stages, and how many units of each have returned."""

    task: StoredTask
    stages: list[list["Message"]]
    counts: list[int]


@dataclass(frozen=True)
class Message:
    """A unit on its way."""

    task: StoredTask
    carrier: int
    straight: bool
    ids: tuple[SubtaskId, ...]
    canvas: Canvas = field(repr=False, compare=False)
    stage: int = 0
    in_header: bool = False


@dataclass
class Process:
    """A pool process with the unit it works on."""

    number: int
    message: Message | None = None
    unclaimed: list[SubtaskId] = field(default_factory=list)
    held: list[Claimed] = field(default_factory=list)
    carrier: int = 0
    clean: bool = True


class RandomWindow:
    """A window of any width, which changes all the time."""

    def __init__(self, generator: random.Random) -> None:
        self._random = generator

    @property
    def slots(self) -> dict[str, int]:
        return {queue: self._random.choice([1, 2]) for queue in QUEUES}

    @property
    def typical_seconds(self) -> dict[str, float]:
        return {"test.kind": self._random.choice([0.001, 10.0])}

    @property
    def largest_release(self) -> int:
        return self._random.choice([1, 40])

    def measure(self) -> None:
        """Nothing to ask."""

    def room(self, queues: Iterable[str]) -> dict[str, int]:
        return {queue: self._random.choice([0, 1, 2, 30]) for queue in queues}


class World:
    """Everything around the tables."""

    def __init__(self, engine: Engine, seed: int, patch: pytest.MonkeyPatch, *, processes: int = 3) -> None:
        self.random = random.Random(seed)
        self.engine = engine
        self.tasks: list[StoredTask] = []
        self.queue: list[Message] = []
        self.numbers = iter(range(1, 10_000))
        self.processes = [Process(next(self.numbers)) for _ in range(processes)]
        self.dead: list[Process] = []
        self.story: list[str] = []
        self.taken: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._published: list[Publication] = []
        window: Any = RandomWindow(self.random)
        self._advancer = Advancer(engine, self._published.extend, window, executor="server")
        patch.setattr(turning, "MOST_SUBTASKS", self.random.choice([1, 2, 5_000]))
        patch.setattr(turning, "MOST_EDGES", self.random.choice([1, 20_000]))

    def submit(self) -> None:
        """Store a random graph."""
        count = self.random.randint(2, 6)
        keys = [f"n{number}" for number in range(count)]
        density = self.random.choice([0.3, 0.6, 0.9])
        graph = {
            key: [one for one in keys[max(0, place - 4) : place] if self.random.random() < density]
            for place, key in enumerate(keys)
        }
        options = {
            key: {
                "allow_failure": self.random.random() < 0.4,
                "isolated": self.random.random() < 0.15,
                "max_attempts": self.random.choice([1, 3]),
                "queue": self.random.choice(QUEUES),
                "lost_is_failure": self.random.random() < 0.05,
                "has_rollback": self.random.random() < 0.8,
                "prohibit_rollback": self.random.random() < 0.03,
            }
            for key in keys
        }
        concurrency = self.random.choice([None, None, 1, 2])
        columns = self._instance() if self.random.random() < 0.4 else {}
        task = make_task(self.engine, graph, options, concurrency=concurrency, **columns)
        self.tasks.append(task)
        self._run_ahead(task)

    def _run_ahead(self, task: StoredTask) -> None:
        """Run a part of the task at once, up to a failure: so there is soon something for operators to do."""
        while self.random.random() < _BEGUN:
            locked = task.progress()
            if not locked.may_start or not (startable := task.frontier(only_named=locked.only_named, ahead=0)):
                return
            verdicts = ("SUCCESSFUL", "FAILED", "FAILED") if locked.undoing else ("SUCCESSFUL", "SUCCESSFUL", "FAILED")
            task.run(self.random.choice(startable), verdict=self.random.choice(verdicts))

    def submit_if_idle(self) -> None:
        """Store another graph where few are under way."""
        if len(self._live()) < _FEW:
            self.submit()

    def _live(self) -> list[StoredTask]:
        settled = {row["id"] for row in many(self.engine, "SELECT id FROM tasks WHERE finalized_at IS NOT NULL")}
        return [one for one in self.tasks if one.id not in settled]

    def _instance(self) -> dict[str, Any]:
        """Return the columns of a task that waits for its turn at one of two instances."""
        instance: dict[str, Any] = {"instance_id": self.random.choice([1, 1, 2]), "extra": "", "on_duplicate": "queue"}
        return {**instance, "duplicate_key": duplicate_key(account="0", task_type="inline", **instance)}

    def dispatch(self, *, publish: bool = True) -> None:
        """Advance one task as a dispatcher does; without `publish` it died between its commit and the broker."""
        task = self.random.choice(self._live() or self.tasks)
        self._published.clear()
        with transaction(self.engine) as connection:
            continuations.go_on(connection, task.id)
        self._advancer.advance([task.id])
        if publish:
            for publication in self._published:
                self.queue.extend(_canvas(task, publication).stages[0])
        self._tell(task.id, f"{len(self._published)} published")

    def deliver(self, *, keep: bool = False) -> None:
        """Bring a message to an idle process; a broker may keep it and bring it again."""
        idle = [process for process in self.processes if process.message is None]
        if not idle or not self.queue:
            return
        process, place = self.random.choice(idle), self.random.randrange(len(self.queue))
        message = self.queue[place]
        if not keep:
            del self.queue[place]
        process.message, process.unclaimed, process.clean = message, list(message.ids), True
        process.carrier = message.carrier
        with message.task.locked() as (connection, locked):
            self._claim_next(process, connection, locked)
        self._end_unit(process)

    def _claim_next(self, process: Process, connection: claims.Connection, locked: progress.Progress) -> None:
        assert process.message is not None
        message = process.message
        asked = process.unclaimed[: 1 if message.straight else self.random.randint(1, 3)]
        process.held = claim_within(connection, locked.id, asked, process=process.number, executor="w")
        if process.held and self.random.random() < _NO_HANDLER:
            self._decline(process, connection)
        if process.held:
            taken = {one.id for one in process.held}
            process.unclaimed = [one for one in process.unclaimed if one not in taken]
        else:
            self._let_go(process, connection)

    def _decline(self, process: Process, connection: claims.Connection) -> None:
        """Have no handler for what is left of the unit."""
        assert process.message is not None
        declined = declining.decline(
            connection,
            process.message.task.id,
            [*process.unclaimed, *(one.id for one in process.held)],
            [],
            carrier=process.carrier,
            claim=process.held[0].claim,
            process=process.number,
        )
        assert {one.id for one in process.held} <= declined
        process.held, process.clean = [], False

    def _let_go(self, process: Process, connection: claims.Connection) -> None:
        assert process.message is not None
        claims.hand_back(
            connection,
            process.message.task.id,
            process.unclaimed,
            carrier=process.carrier,
            claim=None,
            process=process.number,
        )
        process.unclaimed, process.clean = [], False

    def work(self, verdicts: Sequence[Verdict] = ("SUCCESSFUL",)) -> None:
        """Let a busy process record its batch and take the next."""
        busy = [process for process in self.processes if process.message is not None]
        if busy:
            self._record(self.random.choice(busy), verdicts)

    def _record(self, process: Process, verdicts: Sequence[Verdict]) -> None:
        assert process.message is not None
        finished, process.held = process.held, []
        with process.message.task.locked() as (connection, locked):
            after = locked
            if finished:
                outcomes = [
                    outcome(
                        connection,
                        one,
                        self.random.choice(verdicts),
                        delay_seconds=self.random.choice([None, 0.0, 60.0]),
                        result=self.random.choice([None, 1]),
                    )
                    for one in finished
                ]
                still = _held(connection, finished)
                recorded = records.record(
                    connection, locked, outcomes, claim=finished[0].claim, carrier=process.carrier
                )
                assert recorded.ids == still, "who holds a claim records, and nobody else"
                self._tell(locked.id, f"{[one.verdict for one in outcomes]}, {len(still)} counted")
                after, process.clean = recorded.progress, process.clean and recorded.clean
            if process.unclaimed:
                if process.message.straight and not process.clean:
                    self._let_go(process, connection)
                else:
                    self._claim_next(process, connection, after)
        self._end_unit(process)

    def give_way(self) -> None:
        """Let a busy process return what it has not begun, while its first goes on."""
        busy = [one for one in self.processes if one.message is not None and not one.message.straight]
        for process in busy[:1]:
            assert process.message is not None
            rest = [one.id for one in process.held[1:]] + process.unclaimed
            if rest:
                with process.message.task.locked() as (connection, _):
                    claims.hand_back(
                        connection,
                        process.message.task.id,
                        rest,
                        carrier=process.carrier,
                        claim=process.held[0].claim,
                        process=process.number,
                    )
                process.held, process.unclaimed, process.clean = process.held[:1], [], False

    def _end_unit(self, process: Process) -> None:
        """When nothing is left of a unit, let its canvas go on."""
        message = process.message
        if message is None or process.held or process.unclaimed:
            return
        process.message = None
        whole, after = message.canvas, message.stage + 1
        if after == len(whole.stages):
            return
        whole.counts[message.stage] += 1
        if message.in_header:
            if whole.counts[message.stage] == len(whole.stages[message.stage]):
                self.queue.extend(whole.stages[after])
        elif process.clean:
            self.queue.extend(whole.stages[after])

    def kill(self) -> None:
        """End a process at once; another takes its place."""
        place = self.random.choice([place for place, one in enumerate(self.processes) if one.message is not None])
        self.dead.append(self.processes[place])
        self.processes[place] = Process(next(self.numbers))

    def rescue(self) -> None:
        """Rescue what a dead process held, with or without a witness."""
        process = self.random.choice(self._buried())
        assert process.message is not None
        seen = self.random.choice([None, Seen(process.held[0].id), Seen(None)])
        lost = LostClaim(process.message.task.id, process.held[0].claim, process.number)
        with transaction(self.engine) as connection:
            rescues.rescue(connection, lost, seen=seen)

    def speak_from_the_grave(self) -> None:
        """Let a process that was taken for dead record what it had; rather one whose work another has taken up."""
        self._record(self.random.choice(self._replaced() or self._buried()), ("SUCCESSFUL", "FAILED"))

    def _buried(self) -> list[Process]:
        return [one for one in self.dead if one.message is not None and one.held]

    def _replaced(self) -> list[Process]:
        query = "SELECT id FROM subtasks WHERE id = ANY (:ids) AND claim <> :claim"
        return [
            one
            for one in self._buried()
            if many(self.engine, query, ids=[held.id for held in one.held], claim=one.held[0].claim)
        ]

    def lose_message(self) -> None:
        """Lose a message, or all of them."""
        if self.queue and self.random.random() < 0.2:
            self.queue.clear()
        elif self.queue:
            del self.queue[self.random.randrange(len(self.queue))]

    def recall(self, *, only_lost: bool = True) -> None:
        """Take released units back whose message is gone; a wrong guess may take any."""
        out = {message.carrier for message in self.queue} | {one.carrier for one in self.processes if one.message}
        query = """
            SELECT task_id, carrier, array_agg(id ORDER BY id) AS ids FROM subtasks WHERE state = 'READY'
            GROUP BY 1, 2 ORDER BY 1, 2
        """
        for row in many(self.engine, query):
            if row["carrier"] not in out or not only_lost:
                with transaction(self.engine) as connection:
                    rescues.recall_lost(connection, LostUnit(row["task_id"], row["carrier"], row["ids"]))

    def pass_time(self) -> None:
        """Let the time of all delayed come."""
        execute(self.engine, "UPDATE subtasks SET scheduled_at = now() WHERE scheduled_at > now()")
        with transaction(self.engine) as connection:
            due = releases.tasks_with_due_delays(connection, limit=100)
        for task in due:
            with transaction(self.engine) as connection:
                releases.end_delays(connection, task)

    def operate(self) -> None:
        """Let an operator use a verb that fits."""
        self._use_one_of([one for one in uses(self.engine) if one.error is None])

    def misuse(self) -> None:
        """Let an operator use a verb that does not fit: it is refused and changes nothing."""
        self._use_one_of([one for one in uses(self.engine) if one.error is not None])

    def mend(self) -> Use | None:
        """Let an operator mend what has failed; tell how, or None where there was nothing to mend."""
        return self._use_one_of(
            [one for one in uses(self.engine) if one.error is None and one.command.verb in _MENDING]
        )

    def mend_and_run(self) -> None:
        """Let an operator mend something, and workers be quick about it."""
        used = self.mend()
        if used is not None:
            self._run_ahead(next(one for one in self.tasks if one.id == used.command.task))

    def _use_one_of(self, fit: Sequence[Use]) -> Use | None:
        """Choose what is to come of it first, then the place, so that what is seldom possible is done when it is."""
        ways = sorted({one.way for one in fit})
        if not ways:
            return None
        weights = [_weight(one) for one in ways]
        [way] = self.random.choices(ways, weights=weights)
        chosen = self.random.choice([one for one in fit if one.way == way])
        self._use(chosen)
        return chosen

    def _use(self, chosen: Use) -> None:
        command, error = chosen.command, chosen.error
        self._tell(command.task, f"{' '.join(chosen.way)}", command.subtask)
        if error is not None:
            with refused(self.engine, error):
                operate(self.engine, command, OPERATOR)
            self.refused[chosen.name] += 1
            return
        task = next(one for one in self.tasks if one.id == command.task)
        before = audit(task)
        operate(self.engine, command, OPERATOR)
        *rest, noted = audit(task)
        assert rest == before, "a verb writes one row of the audit"
        assert (noted["verb"], noted["subtask_id"]) == (command.verb, command.subtask)
        assert noted["principal"] == OPERATOR.principal
        assert noted["to_state"] in AFTER[chosen.name], noted
        self.taken[chosen.name] += 1

    def _tell(self, task: TaskId, what: str, subtask: SubtaskId | None = None) -> None:
        place, stored = next((place, one) for place, one in enumerate(self.tasks) if one.id == task)
        key = "".join(key for key, id_ in stored.ids.items() if id_ == subtask)
        self.story.append(f"  task {place} {key}: {what}")

    def pass_deadline(self) -> None:
        """Let the deadline of a task come."""
        task = self.random.choice(self._live() or self.tasks)
        if self.random.random() < 0.5:
            execute(self.engine, _DEADLINE, id=task.id)
        self._expire_overdue()

    def _expire_overdue(self) -> None:
        with transaction(self.engine) as connection:
            overdue = cancellations.overdue_tasks(connection, limit=100)
        for one in overdue:
            with transaction(self.engine) as connection:
                cancellations.expire(connection, one)

    def resume_all(self) -> None:
        """Let an operator resume what is paused."""
        for one in uses(self.engine):
            if one.name == "resume task" and one.error is None:
                self._use(one)

    def step(self) -> None:
        """Do one thing at random, faults among them; what cannot be done at all just now is not chosen."""
        is_busy = any(one.message is not None for one in self.processes)
        is_held_up = is_busy and any(one.hindrance == "busy" for one in uses(self.engine))
        may_deliver = bool(self.queue) and any(one.message is None for one in self.processes)
        steps: dict[str, tuple[int, Callable[[], object]]] = {
            "dispatch": (14, self.dispatch),
            "dispatch and die": (1, lambda: self.dispatch(publish=False)),
            "deliver": (12 * may_deliver, self.deliver),
            "deliver, and keep": (1 * may_deliver, lambda: self.deliver(keep=True)),
            "work": (16 * is_busy, lambda: self.work(VERDICTS)),
            "give way": (2 * is_busy, self.give_way),
            "kill": (3 * is_busy, self.kill),
            "rescue": (8 * bool(self._buried()), self.rescue),
            "speak from the grave": (1 * bool(self._buried()) + 15 * bool(self._replaced()), self.speak_from_the_grave),
            "lose a message": (1 * bool(self.queue), self.lose_message),
            "recall what is lost": (1, self.recall),
            "recall what is not lost": (1, lambda: self.recall(only_lost=False)),
            "pass time": (2, self.pass_time),
            "operate": (4, self.operate),
            "misuse": (20 if is_held_up else 5, self.misuse),
            "mend": (11, self.mend_and_run),
            "pass a deadline": (2, self.pass_deadline),
            "submit": (4, self.submit_if_idle),
        }
        [name] = self.random.choices(list(steps), weights=[weight for weight, _ in steps.values()])
        self.story.append(name)
        steps[name][1]()

    def calm_down(self) -> None:
        """Do what goes on all the time when nothing breaks any more: dispatch, deliver, work, rescue, recall."""
        for process in self.dead:
            if process.message is not None and process.held:
                with transaction(self.engine) as connection:
                    lost = LostClaim(process.message.task.id, process.held[0].claim, process.number)
                    rescues.rescue(connection, lost, seen=Seen(process.held[0].id))
        self.dead.clear()
        self.resume_all()
        self.pass_time()
        self._expire_overdue()
        self.recall()
        for _ in range(3 * len(self.tasks)):
            self.dispatch()
        while self.queue and any(one.message is None for one in self.processes):
            self.deliver()
        for process in self.processes:
            while process.message is not None:
                self._record(process, ("SUCCESSFUL",))


def _weight(way: Way) -> int:
    if way.hindrance:
        return _HINDERED.get(way.hindrance, _FAVOURED)
    favour = _FAVOUR_BACKWARDS if way.course == "backwards" else _FAVOUR
    return favour.get(way.name, _FAVOURED)


def _canvas(task: StoredTask, publication: Publication) -> Canvas:
    made = Canvas(task, [], [])
    for step in publication.fragment.steps:
        stages = (step.header, (step.body,)) if isinstance(step, Chord) else ((step,),)
        for stage, units in enumerate(stages):
            in_header = isinstance(step, Chord) and stage == 0
            made.stages.append(
                [
                    Message(
                        task,
                        publication.carriers[unit.ids],
                        unit.straight,
                        tuple(SubtaskId(one) for one in unit.ids),
                        made,
                        len(made.stages),
                        in_header,
                    )
                    for unit in units
                ]
            )
            made.counts.append(0)
    return made


def _held(connection: claims.Connection, finished: Collection[Claimed]) -> frozenset[int]:
    """Return which of these still run under the claim that they were given."""
    query = "SELECT id FROM subtasks WHERE (id, claim) IN (SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:claims AS bigint[])))"
    parameters = {"ids": [one.id for one in finished], "claims": [one.claim for one in finished]}
    return frozenset(connection.execute(text(query), parameters).scalars())
