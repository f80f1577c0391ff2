"""How many subtasks one claim may take."""

from workers.pace import Pace


def test_an_unknown_kind_is_claimed_one_at_a_time() -> None:
    assert Pace(0.05).batch("host.check") == 1


def test_claims_grow_to_the_expected_work_of_one_claim() -> None:
    pace = Pace(0.05)
    pace.observe("host.check", 0.001)

    assert pace.batch("host.check") == 50


def test_one_slow_run_shrinks_the_next_claim_at_once() -> None:
    pace = Pace(0.05)
    pace.observe("host.check", 0.001)
    pace.observe("host.check", 0.2)

    assert pace.batch("host.check") == 1


def test_a_changed_average_is_told_once() -> None:
    pace = Pace(0.05)
    pace.observe("host.check", 0.001)

    assert pace.news() == {"host.check": 0.001}
    assert pace.news() == {}

    pace.observe("host.check", 0.5)

    assert pace.news() == {"host.check": 0.5}
