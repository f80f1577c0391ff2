"""Statements of a step leave together and are answered together, in one transaction; on a real connection, whatever befalls it."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text

from schema import database
from schema.database import make_engine, transaction
from schema.errors import Busy, Unavailable
from schema.roundtrip import Request, fetch_at_once
from tests.factories import one

_MAKE = Request(text("CREATE TEMPORARY TABLE kept (number bigint CHECK (number > 0), word text)"), {})
_KEEP = text("INSERT INTO kept SELECT n, :word FROM unnest(CAST(:numbers AS bigint[])) AS n")
_ALL = Request(text("SELECT number, word FROM kept ORDER BY number"), {})
_COUNT = "SELECT count(*)::int FROM pg_prepared_statements WHERE name LIKE 'step%'"


@pytest.fixture
def session(database_url: str) -> Iterator[Engine]:
    """An engine with one connection, which has a table of its own."""
    engine = make_engine(database_url, name="exchange", pool_size=1)
    with transaction(engine) as connection:
        fetch_at_once(connection, [_MAKE])
    yield engine
    engine.dispose()


def _keep(word: str, *numbers: int) -> Request:
    return Request(_KEEP, {"word": word, "numbers": numbers})


def _kept(session: Engine) -> list[int]:
    with transaction(session) as connection:
        [rows] = fetch_at_once(connection, [_ALL])
    return [row["number"] for row in rows]


def _driver_of(connection: Connection) -> psycopg.Connection[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def _prepared(connection: Connection) -> int:
    return int(connection.execute(text(_COUNT)).scalar_one())


def test_each_statement_sees_what_those_before_it_did(session: Engine) -> None:
    with transaction(session) as connection:
        made, before, _, after = fetch_at_once(connection, [_keep("one", 1), _ALL, _keep("two", 2, 3), _ALL])

    assert made == []
    assert before == [{"number": 1, "word": "one"}]
    assert [row["number"] for row in after] == [1, 2, 3]


def test_values_come_as_the_driver_reads_them(session: Engine) -> None:
    question = text(
        """SELECT now() AS at, '{"a": [1]}'::jsonb AS document, :none AS nothing, CAST(:text AS text) AS text"""
    )
    written = "ünï 'quoted' \\ %s $1"

    with transaction(session) as connection:
        [[row]] = fetch_at_once(connection, [Request(question, {"none": None, "text": written})])

    assert isinstance(row.pop("at"), datetime)
    assert row == {"document": {"a": [1]}, "nothing": None, "text": written}


def test_all_of_it_is_one_transaction(session: Engine) -> None:
    with transaction(session) as connection:
        fetch_at_once(connection, [_keep("one", 1)])
        fetch_at_once(connection, [_keep("two", 2)])
        connection.rollback()

    assert _kept(session) == []


def test_what_fails_is_raised_and_undoes_what_went_before(session: Engine) -> None:
    with pytest.raises(Exception, match="kept_number_check"), transaction(session) as connection:
        fetch_at_once(connection, [_keep("good", 1), _keep("bad", -1), _keep("never", 2)])

    assert _kept(session) == []


def test_a_statement_is_prepared_once(session: Engine) -> None:
    def keep(number: int) -> int:
        with transaction(session) as connection:
            fetch_at_once(connection, [_keep("word", number), _keep("again", number)])
            return _prepared(connection)

    assert [keep(1), keep(2), keep(3)] == [2, 2, 2]
    assert _kept(session) == [1, 1, 2, 2, 3, 3]


def test_what_a_rollback_let_the_server_forget_is_prepared_anew(session: Engine) -> None:
    with transaction(session) as connection:
        fetch_at_once(connection, [_keep("one", 1)])
        _driver_of(connection).execute("SELECT 1", prepare=True)
    with session.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.rollback()
        assert _prepared(connection) == 0

    with transaction(session) as connection:
        connection.execute(text("SELECT 1"))
        fetch_at_once(connection, [_keep("two", 2)])

    assert _kept(session) == [1, 2]


def test_a_server_that_goes_away_is_unavailable_and_the_next_transaction_connects_anew(
    session: Engine, engine: Engine
) -> None:
    def lose_the_server() -> None:
        with transaction(session) as connection:
            [[row]] = fetch_at_once(connection, [Request(text("SELECT pg_backend_pid() AS pid"), {})])
            assert one(engine, "SELECT pg_terminate_backend(:pid) AS ended", pid=row["pid"])["ended"]
            fetch_at_once(connection, [_ALL])

    with pytest.raises(Unavailable):
        lose_the_server()

    with transaction(session) as connection:
        assert fetch_at_once(connection, [Request(text("SELECT 1 AS one"), {})]) == [[{"one": 1}]]


def test_who_waits_too_long_for_a_lock_is_told_so(session: Engine, engine: Engine) -> None:
    lock = Request(text("SELECT pg_advisory_xact_lock(77)"), {})
    impatient = Request(text("SELECT set_config('lock_timeout', '10ms', true)"), {})
    with transaction(engine) as other:
        fetch_at_once(other, [lock])

        with pytest.raises(Busy), transaction(session) as connection:
            fetch_at_once(connection, [impatient, lock, _keep("never", 1)])

    assert _kept(session) == []


def test_a_connection_that_rested_still_knows_what_it_prepared(
    session: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(session) as connection:
        fetch_at_once(connection, [_keep("one", 1)])
        _driver_of(connection).execute("SELECT 1", prepare=True)
        prepared = _prepared(connection)
    monkeypatch.setattr(database, "_REST_SECONDS", -1.0)

    with transaction(session) as connection:
        rested = _prepared(connection)

    assert rested == prepared
