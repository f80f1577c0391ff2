"""That a test finds the database as new, whatever the one before it did there."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import make_engine
from taskserver.embedded.stack import EmbeddedStack
from tests.reused_database import ReusedDatabase

_PRINCIPAL = "INSERT INTO principals (name, role) VALUES ('one', 'ADMIN')"
_USED_SEQUENCES = "SELECT seqrelid::regclass::text FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL"


@pytest.fixture(scope="module")
def database(stack: EmbeddedStack) -> Iterator[ReusedDatabase]:
    database = ReusedDatabase(stack.database_url, name="reused")
    yield database
    database.close()


@pytest.fixture
def engine(database: ReusedDatabase) -> Iterator[Engine]:
    engine = make_engine(database.url, name="tests")
    yield engine
    engine.dispose()


def ask(engine: Engine, statement: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(statement).scalars())


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_rows_are_gone_and_numbers_begin_anew(database: ReusedDatabase, engine: Engine) -> None:
    execute(engine, "SELECT nextval('subtask_ids')", _PRINCIPAL)
    assert ask(engine, _USED_SEQUENCES)

    database.renew()
    engine.dispose()

    assert ask(engine, _USED_SEQUENCES) == []
    assert ask(engine, "SELECT count(*) FROM principals") == [0]


@pytest.mark.parametrize(
    ("change", "trace"),
    [
        ("ALTER TABLE kinds RENAME TO hidden", "SELECT 1 WHERE to_regclass('kinds') IS NULL"),
        ("CREATE TABLE other (id int)", "SELECT 1 WHERE to_regclass('other') IS NOT NULL"),
        ("ALTER TABLE tasks DISABLE TRIGGER ALL", "SELECT 1 FROM pg_trigger WHERE tgenabled = 'D'"),
        ("ANALYZE pg_class, alembic_version", "SELECT 1 FROM pg_stats WHERE tablename = 'alembic_version'"),
    ],
)
def test_what_is_no_row_is_undone_too(database: ReusedDatabase, engine: Engine, change: str, trace: str) -> None:
    execute(engine, change)
    assert ask(engine, trace)

    database.renew()
    engine.dispose()

    assert not ask(engine, trace)


def test_who_is_still_connected_and_holds_locks_is_ended(database: ReusedDatabase, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE tasks, alembic_version")
        connection.exec_driver_sql("SELECT nextval('subtask_ids')")

        database.renew()
        connection.invalidate()

    assert ask(engine, _USED_SEQUENCES) == []
