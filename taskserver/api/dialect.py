"""What sets a published interface apart from the main API: its addresses, and how it says what went wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Response

from schema.errors import TaskserverError
from taskserver.api import envelope
from taskserver.api.trace import Trace

Failure = Callable[[Trace, TaskserverError, Mapping[str, str]], Response]


@dataclass(frozen=True, slots=True)
class Dialect:
    """An interface whose clients read errors in an envelope of its own, at every address under its prefixes."""

    prefixes: tuple[str, ...]
    router: APIRouter
    failure: Failure


@dataclass(frozen=True, slots=True)
class Dialects:
    """The interfaces that are served; what belongs to none of them is the main API's."""

    served: tuple[Dialect, ...] = ()

    def failure(
        self, path: str, trace: Trace, error: TaskserverError, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return the error as the clients of the address read it."""
        for dialect in self.served:
            if any(path == one or path.startswith(f"{one}/") for one in dialect.prefixes):
                return dialect.failure(trace, error, headers or {})
        return envelope.failure(trace, error, headers)
