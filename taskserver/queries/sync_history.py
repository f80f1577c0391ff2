"""The sync history as the BK-CMDB dialect shows it: one row for each task there has been, also after the task was deleted."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, text

from taskserver.projection import wire_time
from taskserver.queries.cmdb_conditions import HISTORY_FIELDS, HISTORY_STATUS, Condition, Order, order_by, where
from taskserver.queries.reading import one_snapshot, one_statement

Document = dict[str, Any]

_COLUMNS = f"""h.task_hex, h.task_type, h.instance_id, h.extra, {HISTORY_STATUS} AS status, h.creator, h.account,
    h.created_at, h.updated_at"""


def count_and_list(
    engine: Engine,
    conditions: Sequence[Condition],
    *,
    account: str,
    orders: Sequence[Order],
    start: int,
    most: int,
    counted: bool,
) -> tuple[int, list[Document]]:
    """Return how many rows of the account match (0 unless that is wanted), and one page of them, the oldest first.

    Args:
        engine: Where.
        conditions: What must hold of each.
        account: Whose they must be.
        orders: How they are sorted.
        start: How many are left out at the beginning.
        most: How many follow.
        counted: Whether to count them.

    """
    matching, parameters = where(conditions, HISTORY_FIELDS)
    parameters |= {"account": account, "start": start, "most": most}
    page = f"""
SELECT {_COLUMNS} FROM sync_history AS h WHERE h.account = :account{matching}
ORDER BY {order_by(orders, HISTORY_FIELDS, "h.task_id")} LIMIT :most OFFSET :start
"""
    with one_snapshot(engine) as connection:
        count = _count(connection, matching, parameters) if counted else 0
        return count, _documents(connection.execute(text(page), parameters).mappings())


def _count(connection: Connection, matching: str, parameters: dict[str, Any]) -> int:
    statement = f"SELECT count(*) FROM sync_history AS h WHERE h.account = :account{matching}"
    return int(connection.execute(text(statement), parameters).scalar_one())


def newest_of_each(
    engine: Engine, conditions: Sequence[Condition], *, account: str, start: int, most: int
) -> list[Document]:
    """Return the newest row of each task type and instance among those that match, in the order of both."""
    matching, parameters = where(conditions, HISTORY_FIELDS)
    statement = f"""
SELECT DISTINCT ON (h.task_type, h.instance_id) {_COLUMNS} FROM sync_history AS h
WHERE h.account = :account AND h.instance_id IS NOT NULL{matching}
ORDER BY h.task_type, h.instance_id, h.task_id DESC LIMIT :most OFFSET :start
"""
    parameters |= {"account": account, "start": start, "most": most}
    with one_statement(engine) as connection:
        return _documents(connection.execute(text(statement), parameters).mappings())


def _documents(rows: Iterable[RowMapping]) -> list[Document]:
    return [_document(row) for row in rows]


def _document(row: RowMapping) -> Document:
    document = {
        "_id": row["task_hex"][:24],
        "task_id": row["task_hex"],
        "task_type": row["task_type"],
        "bk_inst_id": row["instance_id"],
        "status": row["status"],
        "creator": row["creator"],
        "bk_supplier_account": row["account"],
        "create_time": wire_time(row["created_at"]),
        "last_time": wire_time(row["updated_at"]),
    }
    return document | {"extra": row["extra"]} if row["extra"] else document
