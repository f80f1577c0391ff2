"""The arguments of a task as they are answered: the one place that hides what its definition wants hidden.

The rows keep everything, because handlers need it. Every answer with arguments or results takes them through here.
"""

import json
from typing import Any

from sqlalchemy import RowMapping

from schema.redaction import MASK, Redaction

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
        self._redacts = bool(names)
        self._argument: str = row["argument"]

    def shown(self) -> object:
        """Return the arguments; the text itself where a plain INSERT stored something that is not JSON.

        What is to be hidden cannot be found in such a text, so it is hidden whole.
        """
        arguments = _parsed(self._argument)
        if self._redacts and isinstance(arguments, str):
            return MASK
        return self._redaction.hide(arguments)

    def text(self) -> str:
        """Return the arguments as JSON text; as they were given where nothing is to be hidden, empty where there are none."""
        if not self._redacts or not self._argument:
            return self._argument
        shown = self.shown()
        return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)

    def of_subtask(self, arguments: object) -> object:
        """Return the arguments of one of its subtasks, as submitted."""
        return self._redaction.hide(arguments, references=True)

    def result(self, result: Any) -> Any:
        """Return a result, in which arguments may have come back."""
        return self._redaction.hide(result)


def _parsed(argument: str) -> object:
    if not argument:
        return None
    try:
        return json.loads(argument)
    except (ValueError, RecursionError):
        return argument
