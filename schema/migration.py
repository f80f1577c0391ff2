"""Brings a database to the schema of this version. Forward only; safe to run from several processes at once."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

# One runner at a time: the others wait, then find nothing to do. Any fixed number serves.
_MIGRATION_LOCK = 0x7461736B


def migrate(engine: Engine) -> str:
    """Run the missing revisions, each in its own transaction; return the revision reached."""
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.commit()
        try:
            command.upgrade(_config(connection), "head")
            _raise_numbers(connection)
            return current_revision(connection) or ""
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()


def current_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at; None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str:
    """Return the revision that this version of the code needs."""
    return ScriptDirectory.from_config(_config(None)).get_current_head() or ""


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("schema") / "migrations"))
    config.attributes["connection"] = connection
    return config


# In microseconds since the epoch, which no installation draws faster: so after a restore from backup new claims have
# numbers above all that were ever drawn, and who still holds an old one is fenced.
_RAISE = text(
    """
SELECT setval(name, greatest(nextval(name), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))
FROM unnest(ARRAY['claim_numbers', 'process_numbers']) AS name
"""
)


def _raise_numbers(connection: Connection) -> None:
    connection.execute(_RAISE)
    connection.commit()
