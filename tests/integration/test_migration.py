import time
from collections.abc import Iterator
from importlib.resources import files

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine import make_url

from schema.database import make_engine, transaction
from schema.migration import current_revision, head_revision, migrate
from schema.states import Operation, SubtaskState, TaskState
from taskserver.embedded.stack import EmbeddedStack
from tests.factories import many, one, together

_NAME = "never_migrated"


@pytest.fixture
def empty(stack: EmbeddedStack) -> Iterator[Engine]:
    """Return an engine on a database without any table."""
    maintenance = make_engine(stack.database_url, name="tests").execution_options(isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {_NAME} TEMPLATE template0")
    url = make_url(stack.database_url).set(database=_NAME).render_as_string(hide_password=False)
    engine = make_engine(url, name="tests", pool_size=10)
    yield engine
    engine.dispose()
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {_NAME} WITH (FORCE)")
    maintenance.dispose()


def test_an_empty_database_is_brought_to_the_head(empty: Engine) -> None:
    with empty.connect() as connection:
        assert current_revision(connection) is None

    assert migrate(empty) == head_revision()

    with empty.connect() as connection:
        assert current_revision(connection) == head_revision()
    assert "tasks" in inspect(empty).get_table_names()


def test_a_second_run_finds_nothing_to_do(empty: Engine) -> None:
    migrate(empty)
    before = many(empty, "SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")

    assert migrate(empty) == head_revision()

    after = many(empty, "SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
    assert after == before


def test_rows_of_an_older_version_keep_their_values_and_times(empty: Engine) -> None:
    _migrate_to(empty, "0007")
    columns = "integration_id, user_id, client_id, account_id, template_id, argument"
    with transaction(empty) as connection:
        insert = f"INSERT INTO tasks ({columns}, created_at, updated_at, subtask_count) VALUES"
        connection.execute(text(f"{insert} (NULL, NULL, NULL, NULL, NULL, NULL, 5, 6, 1)"))
        connection.execute(text(f"{insert} (1, -2, 3, 4, 5, '{{}}', 5, 6, 1)"))

    migrate(empty)

    rows = many(empty, f"SELECT {columns}, created_at, updated_at FROM tasks ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [(0, 0, 0, 0, 0, "", 5, 6), (1, -2, 3, 4, 5, "{}", 5, 6)]


def _migrate_to(engine: Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(files("schema") / "migrations"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_two_runners_at_once_both_end_well(empty: Engine) -> None:
    assert together(4, lambda _: migrate(empty)) == [head_revision()] * 4

    assert one(empty, "SELECT count(*) AS n FROM alembic_version")["n"] == 1
    assert many(empty, "SELECT objid FROM pg_locks WHERE locktype = 'advisory'") == []


def test_the_published_table_has_its_columns_types_and_defaults(engine: Engine) -> None:
    columns = many(
        engine,
        "SELECT column_name, data_type, column_default, is_nullable FROM information_schema.columns"
        " WHERE table_name = 'tasks' AND ordinal_position <= 10 ORDER BY ordinal_position",
    )

    milliseconds = "((EXTRACT(epoch FROM now()) * (1000)::numeric))::bigint"
    references = ["integration_id", "user_id", "client_id", "account_id", "template_id"]
    assert [tuple(row.values()) for row in columns] == [
        ("id", "bigint", "nextval('tasks_id_seq'::regclass)", "NO"),
        *((name, "bigint", "0", "NO") for name in references),
        ("argument", "text", "''::text", "NO"),
        ("status", "integer", "0", "NO"),
        ("created_at", "bigint", milliseconds, "NO"),
        ("updated_at", "bigint", milliseconds, "NO"),
    ]


def test_every_other_column_of_tasks_has_a_default_or_may_be_null(engine: Engine) -> None:
    required = many(
        engine,
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_name = 'tasks' AND is_nullable = 'NO' AND column_default IS NULL",
    )

    assert required == []


def test_the_published_indexes_have_their_names(engine: Engine) -> None:
    indexes = {index["name"]: index["column_names"] for index in inspect(engine).get_indexes("tasks")}

    assert {name: columns for name, columns in indexes.items() if (name or "").startswith("idx_")} == {
        "idx_integration_id": ["integration_id"],
        "idx_user_id": ["user_id"],
        "idx_client_id": ["client_id"],
        "idx_account_id": ["account_id"],
        "idx_template_id": ["template_id"],
        "idx_status": ["status"],
        "idx_task": ["integration_id", "client_id", "template_id"],
    }


@pytest.mark.parametrize("table", ["tasks", "subtasks"])
def test_the_words_that_the_tables_allow_are_those_of_the_code(engine: Engine, table: str) -> None:

    [definition] = [
        row["definition"]
        for row in many(
            engine,
            "SELECT pg_get_constraintdef(oid) AS definition FROM pg_constraint"
            " WHERE conrelid = CAST(:table AS regclass) AND conname = :name",
            table=table,
            name=f"{table}_state_check",
        )
    ]
    words = set(TaskState) if table == "tasks" else set(SubtaskState)
    assert {part.split("'")[0] for part in definition.split("'")[1::2]} == {str(word) for word in words}
    operations = one(
        engine,
        "SELECT pg_get_constraintdef(oid) AS definition FROM pg_constraint"
        " WHERE conrelid = CAST(:table AS regclass) AND conname = :name",
        table=table,
        name=f"{table}_operation_check",
    )["definition"]
    assert set(operations.split("'")[1::2]) == {str(word) for word in Operation}


def test_claims_are_numbered_above_those_of_a_lost_future(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(text("SELECT setval('claim_numbers', 10), setval('process_numbers', 10)"))
    long_ago = int(time.time() - 3600) * 1_000_000

    migrate(engine)

    with transaction(engine) as connection:
        drawn = connection.execute(text("SELECT nextval('claim_numbers'), nextval('process_numbers')")).one()
    assert all(number > long_ago for number in drawn)
