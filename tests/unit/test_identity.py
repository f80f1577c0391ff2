import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.identity import split_hex, subtask_hex

TASK = "0123456789abcdef01234567" + "0" * 8


def test_a_task_and_its_subtasks_share_their_first_24_digits() -> None:
    assert subtask_hex(TASK, 0) == "0123456789abcdef0123456700000001"
    assert subtask_hex(TASK, 254) == "0123456789abcdef01234567000000ff"


def test_a_tasks_own_id_names_no_subtask() -> None:
    assert split_hex(TASK) == (TASK, None)


@given(st.integers(0, 2**32 - 2))
def test_either_id_is_found_from_the_other(series_id: int) -> None:
    hex_id = subtask_hex(TASK, series_id)

    assert len(hex_id) == 32
    assert split_hex(hex_id) == (TASK, series_id)


@given(st.sets(st.integers(0, 100_000), min_size=2))
def test_ids_ascend_with_the_series(series: set[int]) -> None:
    ordered = sorted(series)

    assert [subtask_hex(TASK, one) for one in ordered] == sorted(subtask_hex(TASK, one) for one in ordered)


@pytest.mark.parametrize("hex_id", ["", "abc", "z" * 32])
def test_what_is_no_id_is_refused(hex_id: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        split_hex(hex_id)
