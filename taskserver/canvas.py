"""Published fragments as Celery chains and chords: the only file that knows Celery's canvas.

A unit is one message of the task `taskserver.unit`. It is shown in Flower under the kind of its first subtask, with that
subtask's id, and the task's id as root. Signatures are immutable: results travel through PostgreSQL, and the broker's
messages carry ids only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from celery import Celery, chain, chord
from celery.canvas import Signature

from schema.identity import subtask_hex
from schema.transitions.frontiers import Startable
from schema.wire import RELEASED_AT_HEADER, UNIT_TASK, UnitMessage
from taskserver.planner import Chord, Fragment, Step, Unit


@dataclass(frozen=True, slots=True)
class Publication:
    """A released fragment: its plan, its units' carrier numbers, and what Flower shows."""

    task: int
    task_hex: str
    released_at: datetime
    fragment: Fragment
    carriers: dict[tuple[int, ...], int]
    nodes: dict[int, Startable]


def publish(app: Celery, publications: Sequence[Publication]) -> None:
    """Put the fragments on the broker; single units in pipelined batches.

    Raises:
        kombu.exceptions.OperationalError: The broker is away; what was not published is found and published later.

    """
    if not publications:
        return
    with app.producer_or_acquire() as producer, producer.batch():
        for publication in publications:
            _signature(app, publication).apply_async(root_id=publication.task_hex, producer=producer)


def _signature(app: Celery, publication: Publication) -> Signature:
    def unit_signature(unit: Unit) -> Signature:
        first = publication.nodes[unit.ids[0]]
        message = UnitMessage(publication.task, publication.carriers[unit.ids], unit.straight, unit.ids)
        return app.signature(
            UNIT_TASK,
            args=message.encode(),
            immutable=True,
            options={
                "task_id": subtask_hex(publication.task_hex, first.series_id),
                "queue": unit.queue,
                "shadow": first.kind,
                "argsrepr": f"({len(unit.ids)} subtasks)",
                "kwargsrepr": "{}",
                "headers": {RELEASED_AT_HEADER: publication.released_at.timestamp()},
            },
        )

    steps = [_step(app, step, unit_signature) for step in publication.fragment.steps]
    return steps[0] if len(steps) == 1 else chain(*steps, app=app)


def _step(app: Celery, step: Step, unit_signature: Callable[[Unit], Signature]) -> Signature:
    match step:
        case Chord(header, body):
            return chord([unit_signature(unit) for unit in header], unit_signature(body), app=app)
        case unit:
            return unit_signature(unit)
