"""Python's garbage collector, set for long-lived processes that make many short-lived objects at once.

A task of a thousand subtasks allocates far more than the default threshold of 700 objects, and each full collection walks
everything that was ever imported. What exists once a process is ready is frozen, and collections come less often; most of
what a request makes is freed by its reference count alone.
"""

import gc

_ALLOCATIONS = 50_000


def settle_collector() -> None:
    """Call once, when all that stays has been imported; before a fork it also keeps memory shared."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 50)
