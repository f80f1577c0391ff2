"""How large a submission, its graph and its stored values may be.

One frozen value: the defaults are the contract's numbers, and the settings build another one where an operator wants other
limits. The values that must not vary (what PostgreSQL can store at all) are not here but where they are checked.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one installation; each has a setting of the same name."""

    submission_bytes: int = 16 * 1024 * 1024  # the body as received; whoever reads the bytes checks it
    subtasks: int = 100_000  # after foreach expansion
    edges: int = 1_000_000  # after foreach expansion
    stored_bytes: int = 256 * 1024  # arguments or result, each
    expanded_bytes: int = 64 * 1024 * 1024  # arguments of all subtasks together: foreach multiplies what it repeats
    foreach_elements: int = 10_000  # of a foreach that expands while the task runs
    depth: int = 64  # nesting of arrays and objects in a submission


SUBMISSION_BYTES = "TASKSERVER_MAX_SUBMISSION_BYTES"
DEFAULT_LIMITS = Limits()
