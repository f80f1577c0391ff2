"""What is hidden: values under the names, and the same values wherever else they turn up."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schema.redaction import MASK, Redaction, find_named

names = st.sampled_from(["password", "token", "host", "a"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


def test_values_under_the_names_are_hidden_at_any_depth() -> None:
    arguments = {"password": "hunter2", "db": [{"password": {"old": 1}, "host": "db"}], "host": "h"}
    redaction = Redaction(["password"], arguments)

    assert redaction.hide(arguments) == {"password": MASK, "db": [{"password": MASK, "host": "db"}], "host": "h"}


def test_a_hidden_value_is_hidden_under_other_names_too() -> None:
    redaction = Redaction(["logins"], {"logins": [{"user": "root", "pin": 4711}], "host": "h"})

    shown = redaction.hide({"as": "root", "with": [4711, "root@h"], "host": "h"})

    assert shown == {"as": MASK, "with": [MASK, "root@h"], "host": "h"}


def test_true_false_null_and_the_empty_text_give_nothing_away() -> None:
    redaction = Redaction(["x"], {"x": [True, None, ""]})

    assert redaction.hide({"a": True, "b": None, "c": "", "d": 1}) == {"a": True, "b": None, "c": "", "d": 1}


def test_references_are_shown_where_they_are_references_and_literals_are_not() -> None:
    redaction = Redaction(["password"], {})
    reference, literal = {"$arg": "/password"}, {"$literal": "hunter2"}

    assert redaction.hide({"password": dict(reference)}, references=True) == {"password": reference}
    assert redaction.hide({"password": literal}, references=True) == {"password": MASK}
    assert redaction.hide({"password": {"$arg": 5}}, references=True) == {"password": MASK}
    assert redaction.hide({"password": reference}) == {"password": MASK}


def test_a_result_that_is_the_value_itself_is_hidden() -> None:
    assert Redaction(["p"], {"p": "secret"}).hide("secret") == MASK


def test_without_names_everything_is_shown() -> None:
    assert Redaction([], {"p": "secret"}).hide({"p": "secret"}) == {"p": "secret"}


def test_no_depth_is_too_much() -> None:
    deep: Any = "secret"
    for _ in range(100_000):
        deep = [deep]

    hidden = Redaction(["p"], {"p": "secret"}).hide(deep)
    while isinstance(hidden, list):
        (hidden,) = hidden

    assert hidden == MASK


@given(plain, plain, st.sets(names))
def test_nothing_under_a_name_is_left_and_all_else_keeps_its_shape(
    arguments: Any, value: Any, hidden: set[str]
) -> None:
    before = json.loads(json.dumps(value))

    shown = Redaction(hidden, arguments).hide(value)

    assert all(inner == MASK for _, inner in find_named(shown, hidden))
    assert shape(shown, before)


def shape(shown: Any, before: Any) -> bool:
    """Tell whether what is shown is as before but for what is hidden."""
    if shown == MASK:
        return True
    if isinstance(before, dict):
        return shown.keys() == before.keys() and all(shape(shown[name], before[name]) for name in before)
    if isinstance(before, list):
        return len(shown) == len(before) and all(map(shape, shown, before))
    return bool(shown == before)
