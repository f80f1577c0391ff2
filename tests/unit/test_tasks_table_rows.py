"""What the argument of a row may be, and how errors of the submission that it stands for name its columns."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.errors import Invalid, InvalidArgument, InvalidGraph, SubError, TooLarge
from schema.limits import Limits
from taskserver.table_rows import arguments_of, in_columns, submission_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON))
def test_the_text_of_an_object_is_read_as_it_is(arguments: dict[str, object]) -> None:
    assert arguments_of(json.dumps(arguments)) == arguments


OTHER_JSON = JSON.filter(lambda value: not isinstance(value, dict)).map(json.dumps)


@given(OTHER_JSON | st.text(min_size=1).filter(lambda one: not one.lstrip().startswith("{")))
def test_any_other_text_is_refused_and_not_shown(argument: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        arguments_of(argument)

    assert caught.value.target == "/argument"
    assert caught.value.sub_errors[0].rejected_value is None


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_a_text_there_are_no_arguments(nothing: str | None) -> None:
    assert arguments_of(nothing) == {}


def test_a_text_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match="argument takes 12 bytes, at most 11"):
        arguments_of("no json ----", Limits(stored_bytes=11))


def test_a_submission_says_what_the_row_does() -> None:
    submission = submission_of('{"host": "h"}', "prepare", instanceId=7, templateId=5)

    assert (submission.definition, submission.arguments) == ("prepare", {"host": "h"})
    assert (submission.instance_id, submission.template_id) == (7, 5)


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("/arguments", "/argument"),
        ("/arguments/host/0", "/argument/host/0"),
        ("/definition", "/template_id"),
        ("/subtasks/0/when", "/subtasks/0/when"),
        ("", ""),
        ("argument", "argument"),
    ],
)
@pytest.mark.parametrize("sort", [InvalidArgument, InvalidGraph])
def test_an_error_names_columns(field: str, column: str, sort: type[Invalid]) -> None:
    error = in_columns(sort("wrong", target=field, sub_errors=(SubError(field, "is wrong", 1),)))

    assert (type(error), error.message, error.target) == (sort, "wrong", column)
    assert error.sub_errors == (SubError(column, "is wrong", 1),)
