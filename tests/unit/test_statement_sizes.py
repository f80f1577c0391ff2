"""The driver parses a long statement anew at each use; what every verb and every look sends must be short enough for it to keep.

What steps send is kept by `schema.exchange`, however long it is.
"""

import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH
from sqlalchemy import TextClause

from schema.roundtrip import _sql
from schema.transitions import claims, frontiers, progress, releases, rollbacks


@pytest.mark.parametrize(
    "statement",
    [claims._CLAIM, progress._LOCK, progress._LOCK_ALL, releases._RELEASE, frontiers._NODES, rollbacks.RECORD],
    ids=["claim", "lock", "lock many", "release", "frontier", "record a step back"],
)
def test_a_statement_of_every_look_is_kept_by_the_driver(statement: TextClause) -> None:
    assert len(_sql(statement)) <= MAX_CACHED_STATEMENT_LENGTH
