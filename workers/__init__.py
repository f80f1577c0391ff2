"""What handlers import: the decorator that registers a kind, definitions, and the context that a run is given."""

from workers.context import Context
from workers.registry import definition, subtask

__all__ = ["Context", "definition", "subtask"]
