"""One function of a handler, bound to its type hints: arguments are validated before the call, the result after it.

Everything that can be worked out is worked out once, at registration; a call costs what its validation costs. What pydantic
validates is a function without positional parameters that stands for the handler's, because arguments arrive by name and
the context is not one of them.
"""

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from schema.errors import InvalidArgument
from schema.pointers import join_pointer
from schema.storable import find_unstorable
from workers.context import Context
from workers.failures import BadArgument, BadResult
from workers.outcome import Returned

MAX_DEPTH = 64

_NOTHING: Mapping[str, Any] = {}
_NO_RESULT = Returned(None, len("null"))
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_MAX_PROBLEMS = 10
# So that it is told, instead of being stored as null.
_NAN_STAYS_NAN = ConfigDict(ser_json_inf_nan="constants")
_REST = inspect.Parameter.VAR_KEYWORD
_BARE_CONTEXT_NAMES = ("ctx", "context")
_REFUSED = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only, but arguments come by name: remove the '/'",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of positions, but arguments come by name: use a list, or **kwargs",
}


class Binding:
    """A handler's function with the validators made from its type hints."""

    __slots__ = (
        "_call_with_context",
        "_function",
        "_may_return_none",
        "_reserved",
        "_result",
        "_takes_anything",
        "_validate",
        "arguments_schema",
        "names",
        "required",
        "result_schema",
    )

    def __init__(self, function: Callable[..., Any], *, kind: str) -> None:
        """Work out how to call the function.

        Raises:
            InvalidArgument: It cannot be called by name, or pydantic cannot make a schema of a hint.

        """
        parameters, result = _resolved(function, kind)
        context = _take_context(parameters)
        _check_callable_by_name(parameters, kind)
        has_rest = any(one.kind is _REST for one in parameters)
        self.names = None if has_rest else frozenset(one.name for one in parameters)
        self.required = frozenset(one.name for one in parameters if one.kind is not _REST and one.default is one.empty)
        self._function = function
        self._call_with_context = _caller(function, context)
        self._reserved = context.name if context is not None and has_rest else None
        self._takes_anything = [(one.kind, one.annotation) for one in parameters] == [(_REST, Any)]
        arguments, self.arguments_schema = _adapter(
            _stand_in(parameters), f"kind {kind!r}: its parameters", "validation"
        )
        self._validate = arguments.validator.validate_python if parameters else None
        self._result, self.result_schema = _adapter(result, f"kind {kind!r}: its result", "serialization")
        self._may_return_none = result is Any or result is types.NoneType

    def bind(self, arguments: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Return the arguments as the function takes them.

        Raises:
            BadArgument: They are not what its type hints say; the message names each.

        """
        if self._validate is None:
            if arguments:
                raise BadArgument(f"{', '.join(map(repr, arguments))}: this kind takes no arguments: leave them out")
            return _NOTHING
        if self._reserved is not None and arguments and self._reserved in arguments:
            raise BadArgument(f"/{self._reserved}: is the handler's name for its context: rename the argument")
        if self._takes_anything:
            return arguments or _NOTHING
        try:
            bound: dict[str, Any] = self._validate(arguments or {})
        except ValidationError as error:
            raise BadArgument(_described(error)) from None
        return bound

    def call(self, context: Context, bound: Mapping[str, Any]) -> Any:
        """Call the function with what `bind` returned. Raises what it raises."""
        if self._call_with_context is None:
            return self._function(**bound)
        return self._call_with_context(context, bound)

    def encode_result(self, value: Any) -> Returned:
        """Return the result as JSON has it, with its size.

        Raises:
            BadResult: It is not what the type hint says, or nothing that PostgreSQL can keep as JSON.

        """
        if value is None and self._may_return_none:
            return _NO_RESULT
        try:
            valid = self._result.validate_python(value)
            value = self._result.dump_python(valid, mode="json", by_alias=True, warnings="error")
        except ValidationError as error:
            raise BadResult(f"the result is not what the handler's type hint says: {_described(error)}") from None
        except (PydanticSerializationError, RecursionError, ValueError) as error:
            raise BadResult(f"the result cannot be written as JSON: {error}") from None
        return _NO_RESULT if value is None else Returned(value, _checked_size(value))

    def run(self, context: Context, arguments: Mapping[str, Any] | None) -> Returned:
        """Bind, call, encode."""
        return self.encode_result(self.call(context, self.bind(arguments)))


def _resolved(function: Callable[..., Any], kind: str) -> tuple[list[inspect.Parameter], Any]:
    """Return the parameters with their hints resolved, and the hint of the result."""
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise InvalidArgument(
            f"kind {kind!r}: {function.__qualname__} is a coroutine or generator function, which returns before its work is "
            "done: make it a plain function (asyncio.run inside it is fine)"
        )
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise InvalidArgument(
            f"kind {kind!r}: the type hints of {function.__qualname__} cannot be resolved ({error}): import what they name "
            "at run time too, not only under TYPE_CHECKING"
        ) from error
    signature = inspect.signature(function)
    parameters = [one.replace(annotation=hints.get(one.name, Any)) for one in signature.parameters.values()]
    return parameters, hints.get("return", Any)


def _take_context(parameters: list[inspect.Parameter]) -> inspect.Parameter | None:
    """Take the parameter for the context out of the list: annotated as such, or the first if it is a bare `ctx`."""
    for index, parameter in enumerate(parameters):
        is_bare = index == 0 and parameter.name in _BARE_CONTEXT_NAMES and parameter.annotation is Any
        if parameter.annotation is Context or is_bare:
            del parameters[index]
            return parameter if index == 0 else parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    return None


def _caller(
    function: Callable[..., Any], context: inspect.Parameter | None
) -> Callable[[Context, Mapping[str, Any]], Any] | None:
    if context is None:
        return None
    if context.kind is not inspect.Parameter.KEYWORD_ONLY:
        return lambda value, bound: function(value, **bound)
    name = context.name
    return lambda value, bound: function(**{name: value}, **bound)


def _check_callable_by_name(parameters: list[inspect.Parameter], kind: str) -> None:
    for parameter in parameters:
        if parameter.kind in _REFUSED:
            raise InvalidArgument(f"kind {kind!r}: parameter {parameter.name!r} {_REFUSED[parameter.kind]}")


def _stand_in(parameters: list[inspect.Parameter]) -> Callable[..., dict[str, Any]]:
    """Return a function with these parameters, by name only, that returns its arguments."""

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    by_name = [one if one.kind is _REST else one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    collect.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    collect.__annotations__ = {one.name: one.annotation for one in parameters}
    return collect


def _adapter(
    hint: Any, what: str, mode: Literal["validation", "serialization"]
) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    try:
        adapter = _type_adapter(hint)
        return adapter, adapter.json_schema(mode=mode)
    except PydanticUserError as error:
        reason = str(error).splitlines()[0]
        raise InvalidArgument(f"{what} have no JSON schema ({reason}): use types that JSON can carry") from error


def _type_adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=_NAN_STAYS_NAN)
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(hint)  # a model, which has a configuration of its own


def _described(error: ValidationError) -> str:
    """Say each problem with its place; without the values, which may be secret."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{join_pointer(one['loc']) or 'the value'}: {_MESSAGES.get(one['type'], one['msg'])}" for one in problems]
    rest = f"; and {len(shown) - _MAX_PROBLEMS} more" if len(shown) > _MAX_PROBLEMS else ""
    return "; ".join(shown[:_MAX_PROBLEMS]) + rest


_MESSAGES = {
    "missing_keyword_only_argument": "is required: give it",
    "unexpected_keyword_argument": "is no argument of this kind: leave it out",
}


def _checked_size(value: Any) -> int:
    """Return the size as JSON; the look into every value is taken only where the encoded text gives reason to."""
    try:
        encoded = _ENCODE(value)
        size = len(encoded) if encoded.isascii() else len(encoded.encode())
    except (ValueError, RecursionError) as error:
        raise BadResult(_unstorable(value) or f"the result cannot be written as JSON: {error}") from None
    may_hold_nul = "\\u0000" in encoded
    may_be_deep = encoded.count("[") + encoded.count("{") > MAX_DEPTH
    if (may_hold_nul or may_be_deep) and (problem := _unstorable(value)) is not None:
        raise BadResult(problem)
    return size


def _unstorable(value: Any) -> str | None:
    problem = next(find_unstorable(value, depth=MAX_DEPTH), None)
    return None if problem is None else f"{problem.pointer or 'the result'} {problem.message}"
