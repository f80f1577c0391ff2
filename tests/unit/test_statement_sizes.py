"""The driver parses a long statement anew at each use; those of every step must be short enough for it to keep."""

import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH
from sqlalchemy import TextClause

from schema.roundtrip import _sql
from schema.transitions import claims, progress, records, rollbacks


@pytest.mark.parametrize(
    "statement",
    [claims._CLAIM, progress._LOCK, progress._LOCK_NOT_DURABLE, records._RECORD, rollbacks.RECORD],
    ids=["claim", "lock", "lock lightly", "record", "record a step back"],
)
def test_a_statement_of_every_step_is_kept_by_the_driver(statement: TextClause) -> None:
    assert len(_sql(statement)) <= MAX_CACHED_STATEMENT_LENGTH
