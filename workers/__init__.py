"""What handlers import: the decorator that registers a kind, and the context that a run is given."""

from workers.context import Context
from workers.registry import subtask

__all__ = ["Context", "subtask"]
