"""The arguments of a task as they are answered: the one place that hides what its definition wants hidden.

The rows keep everything, because handlers need it. Every answer with arguments or results takes them through here.
"""

import json
from typing import Any

from sqlalchemy import RowMapping

from schema.redaction import Redaction

TASK_ARGUMENTS = (
    "t.argument, (SELECT f.document -> 'redact' FROM task_definitions AS f WHERE f.id = t.definition_id) AS redact"
)


class TaskArguments:
    """What one task was submitted with, and how to show its values; of a row with `TASK_ARGUMENTS`."""

    def __init__(self, row: RowMapping) -> None:
        names = row["redact"]
        self._redaction = Redaction(
            names if isinstance(names, list) else (), _parsed(row["argument"]) if names else None
        )
        self._argument: str | None = row["argument"]

    def shown(self) -> object:
        """Return the arguments; the text itself where a plain INSERT stored something that is not JSON."""
        return self._redaction.hide(_parsed(self._argument))

    def of_subtask(self, arguments: object) -> object:
        """Return the arguments of one of its subtasks, as submitted."""
        return self._redaction.hide(arguments, references=True)

    def result(self, result: Any) -> Any:
        """Return a result, in which arguments may have come back."""
        return self._redaction.hide(result)


def _parsed(argument: str | None) -> object:
    if argument is None:
        return None
    try:
        return json.loads(argument)
    except (ValueError, RecursionError):
        return argument
