"""A submission that names a definition, filled with what the definition says; what the submission says comes first."""

from schema.documents.definition import Definition
from schema.documents.specification import Submission
from schema.documents.subtask import Subtask


def fill(submission: Submission, definition: Definition) -> Submission:
    """Return the submission with the definition's subtasks, and with its defaults where the submission says nothing."""
    asked = submission.instance_id is not None and submission.on_duplicate is None
    return submission.model_copy(
        update={
            "subtasks": tuple(_queued(one, definition.queue) for one in definition.subtasks or ()),
            "arguments": {**definition.arguments, **submission.arguments},
            "concurrency": definition.concurrency if submission.concurrency is None else submission.concurrency,
            "on_duplicate": definition.on_duplicate if asked else submission.on_duplicate,
        }
    )


def _queued(subtask: Subtask, queue: str | None) -> Subtask:
    """Return the subtask with the definition's queue, unless it has one or runs nowhere."""
    if queue is None or subtask.queue is not None or subtask.wait_for is not None:
        return subtask
    return subtask.model_copy(update={"queue": queue})
