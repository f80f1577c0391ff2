"""Which function runs which kind: the `@subtask` decorator, the registry behind it, and the loading of handler modules.

A kind is registered when its module is imported, and so is a definition; doing it twice is an error that names both places. The registry
knows nothing of Celery or the database.
"""

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, Unpack

from schema.accounts import OWNER_ACCOUNT
from schema.errors import Invalid, InvalidArgument
from schema.kinds import KindInfo, OnWorkerLost
from schema.wire import DEFAULT_QUEUE
from workers.definitions import DefinitionMembers, HeldDefinition, calling_place
from workers.failures import UnknownKind
from workers.handler import Defaults, Handler
from workers.retry import Retryable

__all__ = ["DEFAULT_REGISTRY", "Handler", "Registry", "definition", "load_handlers", "subtask"]

BUILT_IN = "workers.handlers"

_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_MAX_KIND_LENGTH = 200

P = ParamSpec("P")
R = TypeVar("R")


class Registry:
    """The kinds that one process can run, and the definitions that its modules hold."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler[Any, Any]] = {}
        self._definitions: dict[tuple[str, str], HeldDefinition] = {}

    def subtask(
        self,
        kind: str,
        *,
        timeout: float | None = None,
        max_attempts: int = 1,
        backoff: float = 1.0,
        queue: str = DEFAULT_QUEUE,
        isolated: bool = False,
        on_worker_lost: OnWorkerLost | str = OnWorkerLost.RETRY,
        retry_on: type[BaseException] | Sequence[type[BaseException]] = (),
        do_not_retry_on: type[BaseException] | Sequence[type[BaseException]] = (),
        prohibit_rollback: bool = False,
    ) -> Callable[[Callable[P, R]], Handler[P, R]]:
        """Register the decorated function as the handler of a kind.

        Args:
            kind: Lower-case words joined by dots.
            timeout: Seconds an attempt may take; None for as long as it likes.
            max_attempts: How many failures end it.
            backoff: Seconds before the second attempt, doubled for each one after.
            queue: Where its subtasks go.
            isolated: Each subtask is a Celery message of its own.
            on_worker_lost: `retry`, or `fail` if what it does must not be begun twice.
            retry_on: Only these exceptions are worth another attempt; none named: all are.
            do_not_retry_on: These are not. A timeout counts as `TimeoutError`.
            prohibit_rollback: A task in which this has begun cannot be rolled back.

        Raises:
            InvalidArgument: An option or a type hint is wrong, or the kind is taken; names the kind.

        """
        defaults = Defaults(
            queue=queue,
            timeout=timeout,
            max_attempts=max_attempts,
            backoff_seconds=backoff,
            isolated=isolated,
            prohibit_rollback=prohibit_rollback,
            on_worker_lost=_word(kind, on_worker_lost),
        )
        _check_options(kind, defaults)
        retryable = Retryable(
            only=_exceptions(kind, "retry_on", retry_on), never=_exceptions(kind, "do_not_retry_on", do_not_retry_on)
        )

        def register(function: Callable[P, R]) -> Handler[P, R]:
            handler = Handler(kind, function, defaults, retryable)
            self.add(handler)
            return handler

        return register

    def definition(
        self,
        name: str,
        document: Mapping[str, Any] | None = None,
        *,
        account: str = OWNER_ACCOUNT,
        **members: Unpack[DefinitionMembers],
    ) -> None:
        """Hold a definition, which each worker that loads the module stores at its start.

        Args:
            name: The task type; what a submission names.
            document: The whole document as it would be put over HTTP.
            account: Whose it is.
            members: The members of the document instead, in Python's spelling: `subtasks=[…], on_duplicate="queue"`.

        Raises:
            InvalidArgument: The name is taken or is none, or the document is not JSON; names the place.

        """
        held = HeldDefinition.of(name, document, members, account=account, place=calling_place(1))
        present = self._definitions.setdefault((account, name), held)
        if present is not held:
            raise InvalidArgument(
                f"definition {name!r} of account {account!r} is held twice, by {present.place} and by {held.place}: "
                "rename one of them"
            )

    def definitions(self) -> list[HeldDefinition]:
        """Return the definitions to store, ordered by account and name."""
        return [self._definitions[which] for which in sorted(self._definitions)]

    def add(self, handler: Handler[Any, Any]) -> None:
        """Take a handler in.

        Raises:
            InvalidArgument: Its kind is taken; names both places.

        """
        present = self._handlers.setdefault(handler.kind, handler)
        if present is not handler:
            raise InvalidArgument(
                f"kind {handler.kind!r} is registered twice, by {present.place} and by {handler.place}: rename one of them"
            )

    def find(self, kind: str) -> Handler[Any, Any]:
        """Return the handler of a kind.

        Raises:
            UnknownKind: This process has none.

        """
        handler = self._handlers.get(kind)
        if handler is None:
            raise UnknownKind(
                f"kind {kind!r} has no handler in this worker: name its module in TASKSERVER_HANDLERS and restart the worker"
            )
        return handler

    def __len__(self) -> int:
        """Count kinds and definitions."""
        return len(self._handlers) + len(self._definitions)

    def has_of(self, module: str) -> bool:
        """Tell whether a module, or one below it, holds a kind or a definition."""
        held = {one.module for one in self._handlers.values()}
        held |= {one.module for one in self._definitions.values()}
        return any(f"{one}.".startswith(f"{module}.") for one in held)

    def kinds(self) -> list[KindInfo]:
        """Return what the server is told, ordered by name."""
        return [self._handlers[kind].info for kind in sorted(self._handlers)]


DEFAULT_REGISTRY = Registry()
subtask = DEFAULT_REGISTRY.subtask
definition = DEFAULT_REGISTRY.definition


def load_handlers(modules: Sequence[str]) -> Registry:
    """Import the built-in handlers and these modules; return the registry that their decorators filled.

    The current directory is where they are looked for first, as with every Celery program.

    Raises:
        Invalid: A module cannot be imported, or registers nothing or something wrong; names the module and the cause.

    """
    _import(BUILT_IN)
    before = frozenset(sys.modules)
    with _current_directory_first():
        for module in modules:
            came_with_another = module in sys.modules.keys() - before
            registered = len(DEFAULT_REGISTRY)
            _import(module)
            is_fruitful = len(DEFAULT_REGISTRY) > registered or DEFAULT_REGISTRY.has_of(module)
            if not is_fruitful and not came_with_another:
                raise _fruitless(module)
    return DEFAULT_REGISTRY


@contextmanager
def _current_directory_first() -> Iterator[None]:
    """Look there first for the block, and last from then on: what the product imports later must not be found there."""
    here = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if here not in sys.path:
        sys.path.append(here)
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)  # the first one


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Invalid as error:
        raise InvalidArgument(f"handlers module {module!r}: {error.message}", target=module) from error
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise InvalidArgument(
                f"handlers module {module!r} is not found: check TASKSERVER_HANDLERS (dotted module names, comma) and that "
                "it is installed or stands in the directory the worker is started in",
                target=module,
            ) from None
        raise _broken(module, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(module, error) from error


def _broken(module: str, error: BaseException) -> InvalidArgument:
    return InvalidArgument(
        f"handlers module {module!r} cannot be imported: {type(error).__name__}: {error}: correct it and start the worker again",
        target=module,
    )


def _fruitless(module: str) -> InvalidArgument:
    found = sys.modules[module]
    file = getattr(found, "__file__", None)  # a directory has none, nor has what is built in
    places = [file] if file else list(getattr(found, "__path__", ["built into Python"]))
    return InvalidArgument(
        f"handlers module {module!r} ({places[0]}) registers nothing, neither a kind nor a definition: name the module that "
        "holds them, or rename it if another one of that name is found first",
        target=module,
    )


def _check_options(kind: str, defaults: Defaults) -> None:
    if not _KIND.fullmatch(kind) or len(kind) > _MAX_KIND_LENGTH:
        raise InvalidArgument(f"kind {kind!r}: a kind is lower-case words joined by dots, such as 'host.check'")
    timeout = defaults.timeout
    problems = {
        "timeout must be a positive number of seconds, or None": timeout is not None and not 0 < timeout < math.inf,
        "max_attempts must be a whole number from 1 on": type(defaults.max_attempts) is not int
        or defaults.max_attempts < 1,
        "backoff must be a number of seconds from 0 on": not 0 <= defaults.backoff_seconds < math.inf,
        "queue must be a name": not defaults.queue.strip(),
    }
    for problem, is_wrong in problems.items():
        if is_wrong:
            raise InvalidArgument(f"kind {kind!r}: {problem}")


def _word(kind: str, value: str) -> OnWorkerLost:
    try:
        return OnWorkerLost(value)
    except ValueError:
        words = " or ".join(repr(word.value) for word in OnWorkerLost)
        raise InvalidArgument(f"kind {kind!r}: on_worker_lost is {value!r}, but must be {words}") from None


def _exceptions(
    kind: str, option: str, given: type[BaseException] | Sequence[type[BaseException]]
) -> tuple[type[BaseException], ...]:
    classes = (given,) if isinstance(given, type) else tuple(given)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise InvalidArgument(f"kind {kind!r}: {option} names exception classes, but {one!r} is none")
    return classes
