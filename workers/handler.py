"""One registered kind: its function and the function that undoes it, each bound to its type hints, and its defaults."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from schema.errors import InvalidArgument
from schema.kinds import KindInfo, OnWorkerLost
from schema.states import Operation
from workers.binding import Binding
from workers.retry import Retryable

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a kind says of its subtasks, where the submission says nothing."""

    queue: str
    timeout: float | None
    max_attempts: int
    backoff_seconds: float
    isolated: bool
    prohibit_rollback: bool
    on_worker_lost: OnWorkerLost


class Handler(Generic[P, R]):
    """A registered kind. Calling it calls the function as it was written, for unit tests."""

    def __init__(self, kind: str, function: Callable[P, R], defaults: Defaults, retryable: Retryable) -> None:
        check_function(function, kind)
        self.kind = kind
        self.retryable = retryable
        self.binding = Binding(function, kind=kind)
        self.rollback_binding: Binding | None = None
        self._defaults = defaults
        self._function = function
        self.__doc__ = function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function as it was written."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<handler of {self.kind!r}, {self.place}>"

    @property
    def module(self) -> str:
        """The name of the module that holds it."""
        return self._function.__module__

    @property
    def place(self) -> str:
        """Where the function stands, for people."""
        code = self._function.__code__
        return f"{self._function.__module__}.{self._function.__qualname__} ({code.co_filename}:{code.co_firstlineno})"

    def rollback(self, function: Callable[Q, S]) -> Callable[Q, S]:
        """Decorate the function that undoes what this one did; it names those of its arguments that it needs.

        Raises:
            InvalidArgument: There is one already, or it needs an argument that the kind does not take.

        """
        check_function(function, self.kind)
        if self.rollback_binding is not None:
            raise InvalidArgument(
                f"kind {self.kind!r} has a rollback already: {function.__qualname__} would be its second"
            )
        binding = Binding(function, kind=self.kind)
        names = self.binding.names
        unknown = [] if names is None else sorted(binding.required - names)
        if unknown:
            raise InvalidArgument(
                f"kind {self.kind!r}: its rollback needs {', '.join(unknown)}, which the kind does not take: "
                "name the same arguments, or give it a default"
            )
        self.rollback_binding = binding
        return function

    def binding_for(self, operation: Operation) -> Binding | None:
        """Return what runs under this operation; None when it is to be rolled back and nothing undoes it."""
        return self.rollback_binding if operation is Operation.ROLLBACK else self.binding

    def arguments_for(self, operation: Operation, arguments: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return those of the subtask's arguments that concern what runs under this operation."""
        if operation is not Operation.ROLLBACK or self.rollback_binding is None or not arguments:
            return arguments
        names = self.rollback_binding.names
        return arguments if names is None else {name: value for name, value in arguments.items() if name in names}

    @property
    def info(self) -> KindInfo:
        """What the server is told of the kind."""
        lines = inspect.cleandoc(self._function.__doc__ or "").splitlines()
        return KindInfo(
            name=self.kind,
            arguments_schema=self.binding.arguments_schema,
            result_schema=self.binding.result_schema,
            queue=self._defaults.queue,
            timeout=self._defaults.timeout,
            max_attempts=self._defaults.max_attempts,
            backoff_seconds=self._defaults.backoff_seconds,
            isolated=self._defaults.isolated,
            has_rollback=self.rollback_binding is not None,
            prohibit_rollback=self._defaults.prohibit_rollback,
            on_worker_lost=self._defaults.on_worker_lost,
            description=lines[0] if lines else "",
        )


def check_function(function: object, kind: str) -> None:
    """Check that this can be a handler.

    Raises:
        InvalidArgument: It is a class, a partial, a coroutine function or the like.

    """
    if not inspect.isfunction(function):
        raise InvalidArgument(f"kind {kind!r}: {function!r} is not a plain function: decorate a function of a module")
