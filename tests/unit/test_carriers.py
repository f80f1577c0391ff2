import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.carriers import MAX_PLACES, MAX_STEPS, carrier_number, following

FRAGMENTS = st.integers(0, 2**39 - 1)
STEPS = st.integers(0, MAX_STEPS - 1)
PLACES = st.integers(0, MAX_PLACES - 1)


@given(FRAGMENTS, STEPS, PLACES)
def test_every_number_fits_a_bigint(fragment: int, step: int, place: int) -> None:
    assert 0 <= carrier_number(fragment, step, place) < 2**63


@given(st.tuples(FRAGMENTS, STEPS, PLACES), st.tuples(FRAGMENTS, STEPS, PLACES))
def test_numbers_stand_in_the_order_of_fragment_step_and_place(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    assert (carrier_number(*one) < carrier_number(*other)) == (one < other)


@given(st.tuples(FRAGMENTS, STEPS, PLACES), st.tuples(FRAGMENTS, STEPS, PLACES))
def test_following_covers_later_steps_of_the_same_fragment_and_nothing_else(
    carrier: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    first, last = following(carrier_number(*carrier))

    follows = other[0] == carrier[0] and other[1] > carrier[1]
    assert (first <= carrier_number(*other) <= last) == follows


@pytest.mark.parametrize("fragment", [0, 1, 2**39 - 1])
def test_nothing_follows_the_last_step(fragment: int) -> None:
    first, last = following(carrier_number(fragment, MAX_STEPS - 1, 0))

    assert first > last
