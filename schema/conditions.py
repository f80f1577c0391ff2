"""The condition of a `when`: a reference, or a subset of JsonLogic over references.

This file knows the operators and their shapes; it checks a condition without evaluating it.
"""

from schema.pointers import BadReference
from schema.references import recognise

_OPERANDS = {"==": 2, "!=": 2, "<": 2, "<=": 2, ">": 2, ">=": 2, "in": 2, "and": None, "or": None, "not": 1}
_CURE = f"give a reference or one of {', '.join(_OPERANDS)} over references"
_MAX_DEPTH = 64


def check_condition(condition: object) -> None:
    """Check that this is a condition as `when` takes it.

    Raises:
        BadReference: it is not; the message names the operator and what it needs.
    """
    if not isinstance(condition, dict):
        raise BadReference(f"a condition is an object: {_CURE}")
    _check_operand(condition, 0)


def _check_operand(value: object, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BadReference(f"a condition is nested deeper than {_MAX_DEPTH} levels: make it flatter")
    if isinstance(value, list):
        for inner in value:
            _check_operand(inner, depth + 1)
    elif isinstance(value, dict) and recognise(value) is None:
        _check_operation(value, depth)


def _check_operation(operation: dict[str, object], depth: int) -> None:
    if len(operation) != 1:
        raise BadReference(f"an operation has exactly one operator, this one has {len(operation)}: {_CURE}")
    operator, operands = next(iter(operation.items()))
    if operator not in _OPERANDS:
        raise BadReference(f"{operator!r} is not an operator: {_CURE}")
    if not isinstance(operands, list):
        # JsonLogic lets a single operand stand without its array.
        operands = [operands]
    needed = _OPERANDS[operator]
    if len(operands) != needed and not (needed is None and operands):
        raise BadReference(f"{operator!r} takes {needed or 'one or more'} operands, but has {len(operands)}")
    for operand in operands:
        _check_operand(operand, depth + 1)
