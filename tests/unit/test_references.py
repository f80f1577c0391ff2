"""The reference language: pointers, recognition, resolution."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.conditions import check_condition
from schema.pointers import BadReference, follow, join_pointer, split_pointer
from schema.references import (
    NO_RESULT,
    ArgumentReference,
    ItemReference,
    Literal,
    ResultReference,
    find_references,
    quoted,
    recognise,
    resolve,
    substitute_item,
)
from schema.storable import find_unstorable, stored_size

ARGUMENTS = {"host": "h1", "disks": [{"path": "/a"}, {"path": "/b"}], "a/b": 1, "m~n": 2, "": 3}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab$/~ 01", max_size=4), inner, max_size=3),
    max_leaves=12,
)


def resolved(value: object, **results: object) -> object:
    return resolve(value, arguments=ARGUMENTS, results=results)


class TestPointers:
    @given(st.lists(st.text("ab/~01é", max_size=4)))
    def test_what_is_joined_splits_into_the_same_tokens(self, tokens: list[str]) -> None:
        assert split_pointer(join_pointer(tokens)) == tuple(tokens)

    @given(json_values)
    def test_every_place_of_a_document_is_reached_by_its_pointer(self, document: object) -> None:
        stack: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
        while stack:
            location, value = stack.pop()
            assert follow(join_pointer(location), document, within="it") is value
            members = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
            stack.extend(((*location, name), inner) for name, inner in members)

    @pytest.mark.parametrize(
        ("pointer", "value"),
        [("/a~1b", 1), ("/m~0n", 2), ("/", 3), ("/disks/1/path", "/b"), ("", ARGUMENTS)],
    )
    def test_rfc_6901_examples(self, pointer: str, value: object) -> None:
        assert follow(pointer, ARGUMENTS, within="it") == value

    def test_tilde_one_after_tilde_zero_is_unescaped_once(self) -> None:
        assert split_pointer("/~01") == ("~1",)

    @pytest.mark.parametrize("index", ["-", "01", "+1", "-1", "1.0", "2", "", "\u0661", "9" * 5000])
    def test_only_plain_indexes_inside_the_array_name_an_element(self, index: str) -> None:
        with pytest.raises(BadReference, match="leads nowhere"):
            follow(f"/disks/{index}", ARGUMENTS, within="the arguments")

    @pytest.mark.parametrize(("pointer", "cure"), [("host", "start it with '/'"), ("/a~2", "'~0'"), ("/a~", "'~0'")])
    def test_a_malformed_pointer_is_told_with_the_cure(self, pointer: str, cure: str) -> None:
        with pytest.raises(BadReference, match=cure):
            split_pointer(pointer)

    def test_a_missing_path_says_how_far_it_got(self) -> None:
        with pytest.raises(BadReference) as caught:
            follow("/disks/0/size/total", ARGUMENTS, within="the task's arguments")

        assert caught.value.message == (
            "'/disks/0/size/total' leads nowhere in the task's arguments: "
            "at '/disks/0' there is an object with 'path', without 'size'"
        )

    def test_a_scalar_has_no_members(self) -> None:
        with pytest.raises(BadReference, match="at '/host' there is a text, without 'x'"):
            follow("/host/x", ARGUMENTS, within="it")


class TestRecognise:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ({"$arg": "/host"}, ArgumentReference("/host")),
            ({"$from": "check"}, ResultReference("check")),
            ({"$from": "check", "path": "/cpu"}, ResultReference("check", "/cpu")),
            ({"$item": ""}, ItemReference("")),
            ({"$literal": {"$arg": 5}}, Literal({"$arg": 5})),
            ({"path": "/cpu"}, None),
            ({}, None),
        ],
    )
    def test_the_shapes(self, written: dict[str, object], meant: object) -> None:
        assert recognise(written) == meant

    @pytest.mark.parametrize(
        "written",
        [
            {"$arg": 1},
            {"$arg": "/a", "path": "/b"},
            {"$arg": "/a", "$from": "b"},
            {"$from": "a", "path": 1},
            {"$from": "a", "path": "", "default": None},
            {"$from": None},
            {"$item": ["a"]},
            {"$literal": 1, "x": 2},
            {"$schema": "http://json-schema.org"},
            {"x": 1, "$": 2},
        ],
    )
    def test_any_other_dollar_name_is_an_error_that_names_it(self, written: dict[str, object]) -> None:
        dollar = next(name for name in written if name.startswith("$"))

        with pytest.raises(BadReference) as caught:
            recognise(written)

        assert repr(dollar) in caught.value.message
        assert '{"$literal": …}' in caught.value.message

    def test_a_bad_pointer_is_found_where_it_is(self) -> None:
        with pytest.raises(BadReference) as caught:
            list(find_references({"a": [1, {"$arg": "host"}]}))

        assert caught.value.target == "/a/1"

    def test_references_are_found_in_the_order_written_and_not_inside_literals(self) -> None:
        value = {"x": [{"$arg": "/a"}, {"y": {"$item": ""}}], "l": {"$literal": {"$arg": "/no"}}, "z": {"$from": "k"}}

        assert list(find_references(value)) == [
            (("x", 0), ArgumentReference("/a")),
            (("x", 1, "y"), ItemReference("")),
            (("z",), ResultReference("k")),
        ]

    def test_endless_nesting_is_an_error_and_not_a_crash(self) -> None:
        value: list[object] = []
        value.append(value)

        with pytest.raises(BadReference, match="nested deeper"):
            list(find_references(value))
        with pytest.raises(BadReference, match="nested deeper"):
            resolved(value)


class TestResolve:
    def test_references_anywhere_are_replaced(self) -> None:
        value = {"h": {"$arg": "/host"}, "all": [{"$from": "c", "path": "/cpu/0"}, 7], "i": {"$item": "/n"}}

        result = resolve(value, arguments=ARGUMENTS, results={"c": {"cpu": [8]}}, item={"n": None})

        assert result == {"h": "h1", "all": [8, 7], "i": None}

    def test_the_whole_value_may_be_a_reference(self) -> None:
        assert resolved({"$from": "c"}, c={"x": 1}) == {"x": 1}

    def test_what_a_reference_yields_is_data(self) -> None:
        assert resolved({"$from": "c"}, c={"$arg": "/host"}) == {"$arg": "/host"}
        assert resolved({"a": {"$literal": {"$from": "x"}}}) == {"a": {"$from": "x"}}

    def test_a_result_that_is_null_is_a_result(self) -> None:
        assert resolved({"$from": "c"}, c=None) is None
        with pytest.raises(BadReference, match="at its top there is null"):
            resolved({"$from": "c", "path": "/cpu"}, c=None)

    def test_every_path_of_a_skipped_subtask_is_null(self) -> None:
        assert resolved([{"$from": "c"}, {"$from": "c", "path": "/a/b"}], c=NO_RESULT) == [None, None]

    def test_a_foreach_yields_its_list_in_order_with_null_for_what_was_skipped(self) -> None:
        results = [{"n": 0}, NO_RESULT, {"n": 2}]

        assert resolved({"$from": "m"}, m=results) == [{"n": 0}, None, {"n": 2}]
        assert resolved({"$from": "m", "path": "/2/n"}, m=results) == 2
        assert resolved({"$from": "m", "path": "/1/n"}, m=results) is None

    def test_a_missing_path_names_place_pointer_and_subtask(self) -> None:
        with pytest.raises(BadReference) as caught:
            resolved({"cpu": {"$from": "check", "path": "/cpus"}}, check={"cpu": 8})

        assert caught.value.target == "/cpu"
        assert caught.value.message == (
            "at /cpu: '/cpus' leads nowhere in the result of 'check': at its top there is an object with 'cpu', without 'cpus'"
        )

    def test_a_result_that_is_not_there_is_an_error(self) -> None:
        with pytest.raises(BadReference, match="'c' is not an upstream that has ended"):
            resolved({"$from": "c"})

    def test_item_outside_a_foreach_is_an_error(self) -> None:
        with pytest.raises(BadReference, match="outside a foreach"):
            resolved({"$item": ""})

    @given(json_values)
    def test_quoted_data_resolves_to_itself(self, value: object) -> None:
        assert resolved(quoted(value)) == value

    @given(json_values)
    def test_an_element_passes_through_substitution_and_resolution_unchanged(self, element: object) -> None:
        arguments = substitute_item({"x": {"$item": ""}, "h": {"$arg": "/host"}}, element)

        assert resolved(arguments) == {"x": element, "h": "h1"}


class TestSubstituteItem:
    def test_other_references_stay_as_written(self) -> None:
        value = {"p": {"$item": "/p"}, "a": {"$arg": "/h"}, "f": {"$from": "k", "path": "/x"}, "l": {"$literal": 1}}

        assert substitute_item(value, {"p": 5}) == {**value, "p": 5}

    def test_an_element_cannot_smuggle_in_a_reference(self) -> None:
        assert substitute_item({"x": {"$item": ""}}, {"$from": "secret"}) == {"x": {"$literal": {"$from": "secret"}}}

    def test_a_pointer_that_the_element_does_not_have_is_named(self) -> None:
        with pytest.raises(BadReference, match="'/q' leads nowhere in the foreach element"):
            substitute_item({"x": {"$item": "/q"}}, {"p": 1})


class TestConditions:
    @pytest.mark.parametrize(
        "condition",
        [
            {"$arg": "/wanted"},
            {"$from": "check", "path": "/ok"},
            {"==": [{"$arg": "/a"}, 1]},
            {
                "and": [
                    {"not": {"$arg": "/a"}},
                    {"or": [{"<=": [1, {"$from": "c"}]}, {"in": [{"$item": ""}, ["a", "b"]]}]},
                ]
            },
        ],
    )
    def test_conditions_that_are_taken(self, condition: object) -> None:
        check_condition(condition)

    @pytest.mark.parametrize(
        ("condition", "message"),
        [
            (True, "a condition is an object"),
            ([{"$arg": ""}], "a condition is an object"),
            ({"xor": [1, 2]}, "'xor' is not an operator"),
            ({"==": [1]}, "'==' takes 2 operands, but has 1"),
            ({"not": [1, 2]}, "'not' takes 1 operands, but has 2"),
            ({"and": []}, "'and' takes one or more operands, but has 0"),
            ({"==": [1, 2], "!=": [1, 2]}, "exactly one operator, this one has 2"),
            ({}, "exactly one operator, this one has 0"),
            ({"or": [{"var": "x"}]}, "'var' is not an operator"),
            ({"and": [{"$arg": "x"}]}, "is not a JSON Pointer"),
            ({"==": [{"$var": "x"}, 1]}, "'\\$var' is not used"),
        ],
    )
    def test_what_is_not_a_condition_is_told(self, condition: object, message: str) -> None:
        with pytest.raises(BadReference, match=message):
            check_condition(condition)

    def test_deep_conditions_are_refused(self) -> None:
        condition: dict[str, object] = {"$arg": ""}
        for _ in range(5000):
            condition = {"not": [condition]}

        with pytest.raises(BadReference, match="nested deeper"):
            check_condition(condition)


class TestStorable:
    @given(json_values)
    def test_plain_json_is_storable(self, value: object) -> None:
        assert list(find_unstorable(value, depth=64)) == []

    @pytest.mark.parametrize(
        ("value", "pointer", "message"),
        [
            ("\x00", "", "NUL"),
            ({"a/b": ["x", "y\x00"]}, "/a~1b/1", "NUL"),
            ([{"\x00": 1}], "/0", "name contains the character NUL"),
            (["\ud800"], "/0", "surrogate"),
            ([float("nan")], "/0", "nan"),
            ([float("-inf")], "/0", "-inf"),
            ([10**4000], "/0", "4000 digits"),
            ([(1,)], "/0", "is a tuple, not a JSON value"),
            ({1: 2}, "", "name is a int"),
            ([[[]]], "/0/0", "deeper than 2"),
        ],
    )
    def test_what_postgresql_cannot_store_is_found_where_it_is(self, value: object, pointer: str, message: str) -> None:
        found = list(find_unstorable(value, depth=2))

        assert [one.pointer for one in found] == [pointer]
        assert message in found[0].message

    def test_size_counts_bytes(self) -> None:
        assert stored_size({"é": [1, 2]}) == len('{"é":[1,2]}'.encode())
