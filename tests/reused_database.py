"""One database that each test finds as if it were new: emptied after a test, made anew when a test changed more than rows."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from schema.database import make_engine
from schema.migration import migrate

_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
# TRUNCATE and setval leave these catalogs alone; DDL and ANALYZE do not.
_CATALOGS = (
    "pg_attribute",
    "pg_constraint",
    "pg_db_role_setting",
    "pg_proc",
    "pg_rewrite",
    "pg_statistic",
    "pg_trigger",
    "pg_type",
)
_SHAPE = " UNION ALL ".join(f"SELECT '{name}', count(*), max(xmin::text::bigint) FROM {name}" for name in _CATALOGS)
_EMPTY = """
DO $$
DECLARE used text;
BEGIN
    SELECT string_agg(oid::regclass::text, ', ') INTO used FROM pg_class
     WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
       AND pg_relation_size(oid) > 0;
    IF used IS NOT NULL THEN
        EXECUTE 'TRUNCATE ' || used || ' CASCADE';
    END IF;
    PERFORM setval(seqrelid::regclass, seqstart, false) FROM pg_sequence;
END $$
"""


class ReusedDatabase:
    """Migrated once into a template; copied from there as often as must be, which takes much longer than emptying."""

    def __init__(self, server_url: str, *, name: str) -> None:
        self._name, self._template = name, f"template_{name}"
        self.url = _named(server_url, name)
        self._server = make_engine(server_url, name="tests").execution_options(isolation_level="AUTOCOMMIT")
        self._inside = make_engine(self.url, name="tests").execution_options(isolation_level="AUTOCOMMIT")
        self._on_server(f"CREATE DATABASE {self._template}")
        template = make_engine(_named(server_url, self._template), name="tests")
        migrate(template)
        template.dispose()
        self._copy_template()

    def close(self) -> None:
        """Close the connections; the databases go with their server."""
        self._inside.dispose()
        self._server.dispose()

    def renew(self) -> None:
        """End whoever is still connected, and undo all that a test has done."""
        with self._inside.connect() as connection:
            connection.exec_driver_sql(_END_OTHERS)
            if _shape(connection) == self._shape:
                connection.exec_driver_sql(_EMPTY)
                return
        self._inside.dispose()
        self._on_server(f"DROP DATABASE {self._name} WITH (FORCE)")
        self._copy_template()

    def _copy_template(self) -> None:
        self._on_server(f"CREATE DATABASE {self._name} TEMPLATE {self._template}")
        with self._inside.connect() as connection:
            self._shape = _shape(connection)

    def _on_server(self, statement: str) -> None:
        with self._server.connect() as connection:
            connection.exec_driver_sql(statement)


def _shape(connection: Connection) -> Sequence[Any]:
    return connection.exec_driver_sql(_SHAPE).all()


def _named(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)
