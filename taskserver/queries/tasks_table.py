"""Rows of the published tasks table: one by its id, or a page of them, the newest first.

Conditions are fixed texts chosen by which filters are given; values only ever travel as parameters. A page goes on before the
last id that was answered, so that rows which come in the meantime neither shift it nor are answered twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Engine, RowMapping, text

from schema.identity import TaskId
from taskserver.queries.details import no_task
from taskserver.queries.reading import one_statement
from taskserver.queries.task_arguments import TASK_ARGUMENTS, TaskArguments
from taskserver.views.tasks_table import TableRow

# A page ends early where its arguments take more than this together; a row alone is always answered.
PAGE_BYTES = 8 * 1024 * 1024

_PLAIN = (
    "t.id, t.integration_id, t.user_id, t.client_id, t.account_id, t.template_id, t.status, t.created_at, t.updated_at"
)
_ROW = text(f"SELECT {_PLAIN}, {TASK_ARGUMENTS} FROM tasks AS t WHERE t.id = :task AND t.account = :account")


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows to list: those that have one of the values in each column for which there are any."""

    integration_id: Sequence[int] = ()
    user_id: Sequence[int] = ()
    client_id: Sequence[int] = ()
    account_id: Sequence[int] = ()
    template_id: Sequence[int] = ()
    status: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class RowPage:
    """Rows, and the id before which the next page begins; None where there is nothing more."""

    rows: list[TableRow]
    before: int | None


def table_row(engine: Engine, task: TaskId, *, account: str) -> TableRow:
    """Return one row.

    Raises:
        NotFound: The account has no such task.

    """
    with one_statement(engine) as connection:
        row = connection.execute(_ROW, {"task": task, "account": account}).mappings().one_or_none()
    if row is None:
        raise no_task(task)
    return _view(row)


def table_page(engine: Engine, wanted: RowFilter, *, account: str, before: int | None, limit: int) -> RowPage:
    """Return at most `limit` of the account's rows, from the newest to the oldest.

    Args:
        engine: Where.
        wanted: Which.
        account: Whose.
        before: Only those with a smaller id; None begins with the newest.
        limit: The most rows.

    """
    statement, parameters = page_statement(wanted, account=account, before=before, limit=limit)
    with one_statement(engine) as connection:
        found = connection.execute(text(statement), parameters).mappings().all()
    rows = [_view(row) for row in found]
    return RowPage(rows, rows[-1].id if rows and found[-1]["found"] > len(rows) else None)


def page_statement(wanted: RowFilter, *, account: str, before: int | None, limit: int) -> tuple[str, Mapping[str, Any]]:
    """Return the statement of a page with its parameters."""
    # One row more than asked for tells whether there is more. How long a text is, is known without reading it.
    conditions, parameters = ["t.account = :account"], {"account": account, "limit": limit, "bytes": PAGE_BYTES}
    if before is not None:
        conditions.append("t.id < :before")
        parameters["before"] = before
    for name, values in ((one.name, getattr(wanted, one.name)) for one in fields(wanted)):
        if values:
            one_only = len(values) == 1
            conditions.append(f"t.{name} = :{name}" if one_only else f"t.{name} = ANY (CAST(:{name} AS bigint[]))")
            parameters[name] = values[0] if one_only else list(values)
    statement = f"""
WITH found AS (
    SELECT t.id, octet_length(t.argument) AS size FROM tasks AS t WHERE {" AND ".join(conditions)}
    ORDER BY t.id DESC LIMIT :limit + 1
), counted AS (
    SELECT id, count(*) OVER () AS found, row_number() OVER (ORDER BY id DESC) AS place,
        sum(size) OVER (ORDER BY id DESC) AS bytes
    FROM found
)
SELECT {_PLAIN}, {TASK_ARGUMENTS}, c.found FROM counted AS c JOIN tasks AS t ON t.id = c.id
WHERE c.place <= :limit AND (c.place = 1 OR c.bytes <= :bytes) ORDER BY t.id DESC
"""
    return statement, parameters


def _view(row: RowMapping) -> TableRow:
    members = {name: row[name] for name in TableRow.model_fields if name != "argument"}
    return TableRow(**members, argument=TaskArguments(row).text())
