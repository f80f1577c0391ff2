"""The published tasks table in the catalog, and how PostgreSQL finds rows in it at 100,000 rows."""

from collections.abc import Mapping
from dataclasses import fields

from sqlalchemy import Connection, Engine, inspect, text

from schema.database import transaction
from taskserver.queries.tasks_table import RowFilter, page_statement
from tests.factories import execute, many

# One account has a tenth of them. Few rows wait or are in progress, as on any server that keeps up. The columns say nothing
# about each other.
ROWS = """
INSERT INTO tasks (account, integration_id, user_id, client_id, account_id, template_id, argument, state, subtask_count,
    finalized_at)
SELECT CASE WHEN n % 10 = 0 THEN 'other' ELSE '0' END, a[1], a[2], a[3], a[4], a[5], '{"n": 1}', state, 0,
    CASE WHEN state IN ('SUCCESSFUL', 'FAILED') THEN now() END
FROM generate_series(1, 100000) AS n,
    LATERAL (SELECT CASE WHEN n % 500 = 1 THEN 'CREATED' WHEN n % 500 = 2 THEN 'RUNNING' WHEN n % 100 = 3 THEN 'FAILED'
        ELSE 'SUCCESSFUL' END AS state) AS s,
    LATERAL (SELECT array_agg(hashint8(n * 10 + k) & 1023 ORDER BY k) AS a FROM generate_series(1, 5) AS k) AS r
"""
TRIPLE = "SELECT integration_id, client_id, template_id FROM tasks WHERE id = 77777"
SINGLE: Mapping[str, RowFilter] = {
    "idx_integration_id": RowFilter(integration_id=[17]),
    "idx_user_id": RowFilter(user_id=[17]),
    "idx_client_id": RowFilter(client_id=[17]),
    "idx_account_id": RowFilter(account_id=[17]),
    "idx_template_id": RowFilter(template_id=[17]),
    "idx_status": RowFilter(status=[0]),
}
PAGES = (RowFilter(), RowFilter(status=[2]), RowFilter(status=[0, 1]), RowFilter(user_id=[1, 2]), *SINGLE.values())


def plan(connection: Connection, statement: str, parameters: Mapping[str, object]) -> str:
    return "\n".join(connection.execute(text(f"EXPLAIN {statement}"), parameters).scalars())


def test_rows_are_found_by_the_published_indexes(engine: Engine) -> None:
    execute(engine, ROWS)
    execute(engine, "ANALYZE tasks")

    with transaction(engine) as connection:
        some = connection.execute(text(TRIPLE)).one()
        triple = RowFilter(**{name: [value] for name, value in some._mapping.items()})
        for index, wanted in {**SINGLE, "idx_task": triple}.items():
            _assert_used(connection, index, wanted)
        for wanted in (*PAGES, triple):
            _assert_reads_little(connection, wanted)


def _assert_used(connection: Connection, index: str, wanted: RowFilter) -> None:
    for before in (None, 90_000):
        found = plan(connection, *page_statement(wanted, account="0", before=before, limit=100))
        assert f" {index} " in found, found
        assert "Seq Scan on tasks" not in found, found
    given = {one.name: values[0] for one in fields(wanted) if (values := getattr(wanted, one.name))}
    conditions = " AND ".join(f"{name} = {value}" for name, value in given.items())
    found = plan(connection, f"SELECT * FROM tasks WHERE {conditions}", {})
    assert f" {index} " in found, found


def _assert_reads_little(connection: Connection, wanted: RowFilter) -> None:
    statement, parameters = page_statement(wanted, account="0", before=None, limit=100)
    explained = connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"), parameters).scalar_one()
    assert _read(explained[0]["Plan"]) < 2_000, explained


def _read(node: Mapping[str, object]) -> int:
    """Count the rows that a plan took out of tables and indexes, also those that it threw away."""
    inner = node.get("Plans", [])
    assert isinstance(inner, list)
    mine = 0
    if "Relation Name" in node:
        mine = sum(
            int(str(node.get(name, 0))) * int(float(str(node["Actual Loops"])))
            for name in ("Rows Removed by Filter", "Rows Removed by Index Recheck")
        ) + int(float(str(node["Actual Rows"])) * float(str(node["Actual Loops"])))
    return mine + sum(_read(one) for one in inner)


def test_the_catalog_has_the_published_columns_types_and_defaults(engine: Engine) -> None:
    columns = many(
        engine,
        "SELECT column_name, data_type, column_default, is_nullable FROM information_schema.columns"
        " WHERE table_name = 'tasks' AND ordinal_position <= 10 ORDER BY ordinal_position",
    )

    milliseconds = "((EXTRACT(epoch FROM now()) * (1000)::numeric))::bigint"
    assert [tuple(row.values()) for row in columns] == [
        ("id", "bigint", "nextval('tasks_id_seq'::regclass)", "NO"),
        ("integration_id", "bigint", "0", "NO"),
        ("user_id", "bigint", "0", "NO"),
        ("client_id", "bigint", "0", "NO"),
        ("account_id", "bigint", "0", "NO"),
        ("template_id", "bigint", "0", "NO"),
        ("argument", "text", "''::text", "NO"),
        ("status", "integer", "0", "NO"),
        ("created_at", "bigint", milliseconds, "NO"),
        ("updated_at", "bigint", milliseconds, "NO"),
    ]


def test_the_catalog_has_the_published_indexes_by_their_names(engine: Engine) -> None:
    found = inspect(engine)
    indexes = {one["name"]: one["column_names"] for one in found.get_indexes("tasks") if not one["unique"]}

    assert found.get_pk_constraint("tasks")["constrained_columns"] == ["id"]
    assert {name: columns for name, columns in indexes.items() if (name or "").startswith("idx_")} == {
        "idx_integration_id": ["integration_id"],
        "idx_user_id": ["user_id"],
        "idx_client_id": ["client_id"],
        "idx_account_id": ["account_id"],
        "idx_template_id": ["template_id"],
        "idx_status": ["status"],
        "idx_task": ["integration_id", "client_id", "template_id"],
    }
