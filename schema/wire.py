"""What goes over the broker: one Celery task, and a message that carries ids only.

What to run, with which operation and arguments, comes from the rows; a message is a hint that they may run now.
"""

from dataclasses import dataclass

UNIT_TASK = "taskserver.unit"
DEFAULT_QUEUE = "default"
RELEASED_AT_HEADER = "released_at"  # seconds since the epoch, by PostgreSQL's clock


@dataclass(frozen=True, slots=True)
class UnitMessage:
    """The arguments of `UNIT_TASK`: an ordered list of subtasks of one task for one worker process."""

    task_id: int
    carrier: int
    straight: bool
    ids: tuple[int, ...]

    def encode(self) -> list[object]:
        """Return the positional arguments of the Celery message."""
        return [self.task_id, self.carrier, self.straight, list(self.ids)]

    @classmethod
    def decode(cls, arguments: object) -> "UnitMessage":
        """Read the positional arguments of a message.

        Raises:
            ValueError: The message was not written by this product.

        """
        match arguments:
            case [int(task_id), int(carrier), bool(straight), [*ids]] if ids:
                numbers = tuple(one for one in ids if type(one) is int)
                if len(numbers) == len(ids):
                    return cls(task_id, carrier, straight, numbers)
        raise ValueError(f"not a unit message: {str(arguments)[:200]}")
