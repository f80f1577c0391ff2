import json
from typing import Any

import pytest

from schema.errors import InvalidArgument
from schema.idempotency_keys import check_key
from taskserver.idempotency import idempotent_call


def digest(document: object) -> bytes:
    call = idempotent_call("k", account="0", scope="submit", document=document)
    assert call is not None
    return call.body_hash


@pytest.mark.parametrize(
    "key", ["k", "nightly-2026-11-21", "8e03978e-40d5-43e8-bc93-6894a57f9324", "a b", "~!", "x" * 255]
)
def test_printable_ascii_is_a_key(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb", "a\nb", "\x7f", "\x00", "k\n"])
def test_anything_else_is_no_key(key: str) -> None:
    with pytest.raises(InvalidArgument, match="1 to 255 printable ASCII characters") as caught:
        check_key(key)

    assert caught.value.target == "Idempotency-Key"


@pytest.mark.parametrize("key", [" k", "k ", " "])
def test_a_blank_at_an_edge_is_no_part_of_a_key(key: str) -> None:
    with pytest.raises(InvalidArgument, match="begins or ends with a blank") as caught:
        check_key(key)

    assert caught.value.target == "Idempotency-Key"


@pytest.mark.parametrize("key", [7, b"k", True, ["k"]])
def test_what_is_no_text_is_no_key(key: object) -> None:
    with pytest.raises(InvalidArgument, match="1 to 255 printable ASCII characters"):
        check_key(key)


def test_without_a_key_there_is_no_call() -> None:
    assert idempotent_call(None, account="0", scope="submit", document={}) is None


def test_the_order_of_members_and_the_spacing_do_not_count() -> None:
    written = '{"b": {"y": 1, "x": [1, 2]}, "a": "ü"}'
    otherwise = '{ "a":"\\u00fc",\n"b":{"x":[1,2],"y":1} }'

    assert digest(json.loads(written)) == digest(json.loads(otherwise))


@pytest.mark.parametrize("other", [{"a": [2, 1]}, {"a": [1, "2"]}, {"a": [1, 2, None]}, {"b": [1, 2]}, {}, [], None])
def test_another_value_is_another_body(other: Any) -> None:
    assert digest(other) != digest({"a": [1, 2]})
