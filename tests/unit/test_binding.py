"""Arguments and results are what the type hints say, and JSON."""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from schema.errors import InvalidArgument
from workers import Context
from workers.binding import Binding
from workers.failures import BadArgument, BadResult


class HostReport(BaseModel):
    cpu: int
    seen: datetime = datetime(2026, 11, 21, tzinfo=UTC)


@dataclass
class Mount:
    path: Path
    size: Decimal


class Mode(Enum):
    FAST = "fast"


def bound(function: Any) -> Binding:
    return Binding(function, kind="a.b")


def test_arguments_arrive_by_name_as_their_hints_say() -> None:
    def run(ctx: Context, host: str, mount: Mount, mode: Mode, ids: tuple[UUID, ...], count: int = 3) -> Any:  # noqa: PLR0917
        return [host, mount, mode, len(ids), count, ctx.attempt]

    arguments = {
        "host": "db",
        "mount": {"path": "/data", "size": "1.50"},
        "mode": "fast",
        "ids": ["12345678123456781234567812345678"],
    }
    result = bound(run).run(Context(attempt=2), arguments)

    assert result.value == ["db", {"path": "/data", "size": "1.50"}, "fast", 1, 3, 2]


@pytest.mark.parametrize(
    "function",
    [
        lambda ctx, host: [ctx.attempt, host],
        lambda context, host: [context.attempt, host],
        lambda ctx, /, host: [ctx.attempt, host],
    ],
    ids=["ctx", "context", "positional-only"],
)
def test_a_bare_first_parameter_called_ctx_is_the_context(function: Any) -> None:
    assert bound(function).run(Context(attempt=7), {"host": "db"}).value == [7, "db"]


def test_the_context_is_found_by_its_annotation_anywhere() -> None:
    def run(host: str, *, where: Context) -> str:
        return f"{host} {where.attempt}"

    assert bound(run).run(Context(attempt=7), {"host": "db"}).value == "db 7"


def test_a_handler_without_hints_takes_and_returns_anything() -> None:
    def run(value, other=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return {"value": value, "other": other, 1: {2}}

    assert bound(run).run(Context(), {"value": [1]}).value == {"value": [1], "other": None, "1": [2]}


def test_the_rest_of_the_arguments_is_validated_too() -> None:
    def run(host: str, **sizes: int) -> dict[str, int]:
        return sizes

    binding = bound(run)

    assert binding.run(Context(), {"host": "db", "a": "5"}).value == {"a": 5}
    with pytest.raises(BadArgument, match=r"/a: "):
        binding.bind({"host": "db", "a": "five"})


def test_defaults_from_field_are_used() -> None:
    def run(hosts: list[str] = Field(default_factory=list, max_length=1)) -> list[str]:  # noqa: B008
        return hosts

    assert bound(run).run(Context(), None).value == []


def test_each_wrong_argument_is_named_without_its_value() -> None:
    def run(host: str, ports: list[int], count: Annotated[int, Field(ge=1)] = 1) -> None: ...

    with pytest.raises(BadArgument) as caught:
        bound(run).bind({"ports": [1, "hunter2"], "count": 0, "extra": "hunter2"})

    message = str(caught.value)
    assert "/host: is required" in message
    assert "/ports/1: " in message
    assert "/count: Input should be greater than or equal to 1" in message
    assert "/extra: is no argument of this kind" in message
    assert "hunter2" not in message


def test_arguments_for_a_handler_that_takes_none_are_refused() -> None:
    with pytest.raises(BadArgument, match=r"'host'.*takes no arguments"):
        bound(lambda: None).bind({"host": "db"})


def test_an_argument_cannot_take_the_place_of_the_context() -> None:
    def run(ctx: Context, **rest: Any) -> None: ...

    with pytest.raises(BadArgument, match=r"/ctx"):
        bound(run).bind({"ctx": 1})


def test_names_that_models_reserve_are_ordinary_arguments() -> None:
    def run(schema: str, model_config: int, _private: int, copy: bool) -> list[Any]:
        return [schema, model_config, _private, copy]

    arguments = {"schema": "s", "model_config": 1, "_private": 2, "copy": True}

    assert bound(run).run(Context(), arguments).value == ["s", 1, 2, True]


def test_the_schema_of_the_arguments_is_closed_and_leaves_the_context_out() -> None:
    def run(ctx: Context, host: str, count: int = 3) -> None: ...

    schema = bound(run).arguments_schema

    assert schema["additionalProperties"] is False
    assert schema["required"] == ["host"]
    assert schema["properties"]["count"]["default"] == 3
    assert set(schema["properties"]) == {"host", "count"}


def test_the_schema_of_the_result_describes_what_is_stored() -> None:
    def run() -> HostReport: ...

    assert set(bound(run).result_schema["properties"]) == {"cpu", "seen"}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, /: None, "'a' is positional-only"),
        (lambda *a: None, "'a' takes any number"),
    ],
)
def test_parameters_that_have_no_name_are_refused(function: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        bound(function)


def test_coroutine_and_generator_functions_are_refused() -> None:
    async def coroutine() -> None: ...

    def generator() -> Any:
        yield

    for function in (coroutine, generator):
        with pytest.raises(InvalidArgument, match=r"plain function"):
            bound(function)


def test_a_hint_that_json_cannot_carry_is_refused_at_registration() -> None:
    class Opaque: ...

    def takes(value: Opaque) -> None: ...

    def returns() -> Opaque: ...

    with pytest.raises(InvalidArgument, match=r"'a.b': its parameters"):
        bound(takes)
    with pytest.raises(InvalidArgument, match=r"'a.b': its result"):
        bound(returns)


def test_a_hint_that_cannot_be_resolved_is_refused_at_registration() -> None:
    def run(value: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidArgument, match=r"'Missing' is not defined"):
        bound(run)


def test_a_decorated_function_keeps_its_parameters() -> None:
    def plain(host: str) -> str:
        return host

    @functools.wraps(plain)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs).upper()

    assert bound(wrapped).run(Context(), {"host": "db"}).value == "DB"


def test_a_result_is_stored_as_json_with_its_size() -> None:
    def run() -> HostReport:
        return HostReport(cpu=8)

    result = bound(run).run(Context(), None)

    assert result.value == {"cpu": 8, "seen": "2026-11-21T00:00:00Z"}
    assert result.size_bytes == len('{"cpu":8,"seen":"2026-11-21T00:00:00Z"}')


def test_the_size_counts_bytes_not_characters() -> None:
    assert bound(lambda: "é").run(Context(), None).size_bytes == 4


def test_a_result_that_is_not_its_hint_is_refused_without_its_value() -> None:
    def run() -> HostReport:
        return {"cpu": "hunter2"}  # type: ignore[return-value]

    with pytest.raises(BadResult, match=r"/cpu: ") as caught:
        bound(run).run(Context(), None)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, float("nan")]}, "/a/1 is nan"),
        ({"a": "x\x00"}, "/a contains the character NUL"),
        (["\ud800"], "/0 contains half of a surrogate pair|cannot be written"),
        (functools.reduce(lambda inner, _: [inner], range(70), 0), "nested deeper"),
        (object(), "cannot be written as JSON"),
        (b"\xff", "cannot be written as JSON"),
        (10**5000, "more than 4000 digits"),
    ],
    ids=["nan", "nul", "surrogate", "deep", "object", "bytes", "huge"],
)
def test_a_result_that_cannot_be_stored_is_refused(value: Any, message: str) -> None:
    with pytest.raises(BadResult, match=message):
        bound(lambda: value).run(Context(), None)


def test_a_result_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(BadResult):
        bound(lambda: loop).run(Context(), None)


def test_text_that_merely_looks_like_an_escape_is_fine() -> None:
    assert bound(lambda: "\\u0000").run(Context(), None).value == "\\u0000"


def test_an_error_of_the_handler_is_not_mistaken_for_a_bad_argument() -> None:
    def run(host: str) -> None:
        HostReport.model_validate({})

    with pytest.raises(ValueError, match=r"HostReport"):
        bound(run).run(Context(), {"host": "db"})
