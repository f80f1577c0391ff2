"""Carrier numbers: which unit of which published fragment brings a subtask to a worker.

One bigint packs fragment, step and place, so that all that follows a step in its fragment is one range of numbers:

    fragment (39 bits) | step (12 bits) | place (12 bits)
"""

_PLACE_BITS = 12
_STEP_BITS = 12
MAX_STEPS = 1 << _STEP_BITS
MAX_PLACES = 1 << _PLACE_BITS


def carrier_number(fragment: int, step: int, place: int) -> int:
    """Return the carrier number of the unit at `place` of `step` in `fragment`."""
    return (fragment << _STEP_BITS | step) << _PLACE_BITS | place


def following(carrier: int) -> tuple[int, int]:
    """Return the first and last carrier number of what follows the carrier's step in its fragment."""
    step = carrier >> _PLACE_BITS
    fragment = step >> _STEP_BITS
    return (step + 1) << _PLACE_BITS, ((fragment + 1) << (_STEP_BITS + _PLACE_BITS)) - 1
