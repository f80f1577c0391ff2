"""Whether the database answers, and which revision it is at."""

from sqlalchemy import Engine

from schema.migration import current_revision
from taskserver.queries.reading import one_statement


def database_revision(engine: Engine) -> str | None:
    """Return the revision of the schema; None before the first migration.

    Raises:
        Unavailable: PostgreSQL does not answer.

    """
    with one_statement(engine) as connection:
        return current_revision(connection)
