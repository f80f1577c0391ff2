"""How a coroutine becomes a blocking call: it runs to its end at once, because nothing under it ever suspends.

Every call of the client is written once, as a coroutine over a `Connection`. Over one that blocks, driving it takes no event
loop and no thread, so a blocking call works in any thread, also beside a running loop.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

_Core = TypeVar("_Core")
_T = TypeVar("_T")
_P = ParamSpec("_P")


class Blocking(Generic[_Core]):
    """The blocking face of an object whose methods are coroutines."""

    def __init__(self, core: _Core) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core}>"


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that does not suspend, and return its result.

    Raises:
        RuntimeError: It did suspend: something in it waits for an event loop.

    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking call cannot wait for a coroutine: use AsyncTaskServer")


def blocking(
    method: Callable[Concatenate[_Core, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Blocking[_Core], _P], _T]:
    """Return the method that runs the coroutine of the core's method."""

    @wraps(method)
    def call(self: Blocking[_Core], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return run(method(self._core, *args, **kwargs))

    return call


def iterating(
    method: Callable[Concatenate[_Core, _P], AsyncGenerator[_T, None]],
) -> Callable[Concatenate[Blocking[_Core], _P], Iterator[_T]]:
    """Return the method that yields what the core's method yields."""

    @wraps(method)
    def call(self: Blocking[_Core], /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
        return _each(method(self._core, *args, **kwargs))

    awaited = signature(method)
    items = awaited.return_annotation.__args__[0]
    call.__signature__ = awaited.replace(return_annotation=Iterator[items])  # type: ignore[attr-defined,valid-type]  # for `help`
    return call


def _each(items: AsyncGenerator[_T, None]) -> Iterator[_T]:
    try:
        while True:
            try:
                item = run(_next(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(_close(items))


async def _next(items: AsyncGenerator[_T, None]) -> _T:
    return await anext(items)


async def _close(items: AsyncGenerator[_T, None]) -> None:
    await items.aclose()
