"""Times that PostgreSQL wrote into JSON become OCP's by their text alone, as if they had been read and written again."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskserver.projection import wire_time
from taskserver.queries.subtask_rows import wire_text

ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))])


def _as_postgresql_writes(moment: datetime) -> str:
    """Return ISO with the zeros at the end of the fraction dropped."""
    whole, offset = moment.isoformat(timespec="microseconds")[:-6], moment.isoformat()[-6:]
    return whole.rstrip("0").rstrip(".") + offset if moment.microsecond else whole[:19] + offset


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=ZONES))  # noqa: DTZ001 - hypothesis adds the zone
def test_a_time_is_written_as_wire_time_does(moment: datetime) -> None:
    assert wire_text(_as_postgresql_writes(moment)) == wire_time(moment)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("2026-11-22T02:13:03.570001+00:00", "2026-11-22T02:13:03.57+00:00"),
        ("2026-11-22T02:13:03.000999+00:00", "2026-11-22T02:13:03+00:00"),
        ("2026-11-22T02:13:03-05:30", "2026-11-22T02:13:03-05:30"),
        (None, None),
    ],
)
def test_fractions_are_cut_to_milliseconds(written: str | None, shown: str | None) -> None:
    assert wire_text(written) == shown
