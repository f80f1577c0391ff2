"""How a worker says that it cannot start as it is configured, and how who keeps it alive understands.

An import that fails does not mend itself. The worker writes one line, its last, and ends with an exit code of its own; it is
not started again then, and whoever started it sees that line.
"""

import os

from schema.errors import TaskserverError

REFUSED = os.EX_CONFIG
_MARK = "error: "


def refusal(error: TaskserverError) -> str:
    """Return the line that the worker ends with."""
    details = error.sub_errors if len(error.sub_errors) > 1 else ()
    told = "; ".join([error.message, *(f"{one.field or '(whole)'}: {one.message}" for one in details)])
    return f"{_MARK}{' '.join(told.split())}\n"


def refusal_in(log: str) -> str | None:
    """Return the message of the last such line in a log; None when there is none."""
    lines = [line for line in log.splitlines() if line.startswith(_MARK)]
    return lines[-1].removeprefix(_MARK) if lines else None
