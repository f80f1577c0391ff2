"""Tasks as the BK-CMDB dialect shows them: each with its subtasks inline, in their order.

An answer has a bounded number of subtasks in all, and bounded bytes of what was submitted. A document that lacks some says
how many it leaves out. The rows come from any task, also from those that were not submitted through this dialect.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, text

from schema.identity import TaskId, subtask_hex
from schema.states import SETTLED_TASK_STATES, SubtaskState
from taskserver.callback_tasks import KIND, element_of
from taskserver.projection import time_of_epoch, wire_time
from taskserver.queries.cmdb_conditions import (
    SUBTASK_STATUS,
    TASK_FIELDS,
    TASK_STATUS,
    TASK_USER,
    Condition,
    Order,
    order_by,
    where,
)
from taskserver.queries.reading import one_snapshot, one_statement
from taskserver.queries.task_arguments import TaskArguments

Document = dict[str, Any]

LARGE = frozenset({"header", "detail"})
"""The members that are read only where they are asked for."""
MAX_SUBTASKS = 10_000
MAX_BYTES = 16 * 1024 * 1024
_BY_AGE = (Order("create_time", descending=False),)
_OMITTED = object()
NOT_DONE = 1199002
"""The original's code for a call that could not be made."""

_COLUMNS = f"""t.id, t.task_id, t.task_type, t.instance_id, t.extra, {TASK_USER} AS shown_user, {TASK_STATUS} AS status, t.account,
    t.created_at, t.updated_at, t.subtask_count"""
_ONE = text(f"SELECT {_COLUMNS} FROM tasks AS t WHERE t.account = :account AND t.task_id = :hex")
_SEVERAL = text(
    f"SELECT {_COLUMNS} FROM tasks AS t WHERE t.account = :account AND t.id = ANY (CAST(:tasks AS bigint[]))"
)
_HEADERS = text(
    """
SELECT id, header FROM (
    SELECT t.id, t.header, sum(pg_column_size(t.header)) OVER (ORDER BY asked.place) AS bytes
    FROM unnest(CAST(:tasks AS bigint[])) WITH ORDINALITY AS asked (id, place) JOIN tasks AS t ON t.id = asked.id
) AS counted WHERE header IS NULL OR bytes <= :bytes
"""
)
# Arguments are read only where something of them is to be hidden.
_HIDING = "f.document -> 'redact' <> '[]'"
_ARGUMENTS = text(
    f"""
SELECT t.id, f.document -> 'redact' AS redact, CASE WHEN {_HIDING} THEN t.argument END AS argument
FROM tasks AS t LEFT JOIN task_definitions AS f ON f.id = t.definition_id
WHERE t.id = ANY (CAST(:tasks AS bigint[]))
"""
)
# Of each task by (task_id, series_id): the first ones, until there are too many in all, or they are too large.
_DETAIL = text(
    f"""
SELECT * FROM (
    SELECT one.*, row_number() OVER so_far AS number,
        sum(one.size + CASE WHEN one.series_id = 0 AND {_HIDING} THEN pg_column_size(t.argument) ELSE 0 END) OVER so_far AS bytes
    FROM unnest(CAST(:tasks AS bigint[])) WITH ORDINALITY AS asked (id, place)
    JOIN tasks AS t ON t.id = asked.id LEFT JOIN task_definitions AS f ON f.id = t.definition_id
    CROSS JOIN LATERAL (
        SELECT d.task_id, d.series_id, d.kind, d.arguments, s.state, {SUBTASK_STATUS} AS status,
            coalesce(r.result, a.result) AS result, a.error_message,
            coalesce(pg_column_size(d.arguments), 0) + coalesce(pg_column_size(r.result), 0)
                + coalesce(pg_column_size(a.result), 0) AS size
        FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id
            LEFT JOIN subtask_results AS r ON r.subtask_id = d.id AND s.state = 'SUCCESSFUL'
            LEFT JOIN LATERAL (
                SELECT result, error_message FROM subtask_attempts
                WHERE subtask_id = d.id AND s.state = 'FAILED' ORDER BY claim DESC LIMIT 1
            ) AS a ON true
        WHERE d.task_id = asked.id ORDER BY d.series_id LIMIT :most
    ) AS one
    WINDOW so_far AS (ORDER BY asked.place, one.series_id)
) AS counted WHERE number <= :most AND bytes <= :bytes ORDER BY number
"""
)


@dataclass(frozen=True, slots=True)
class Settled:
    """A task that may be deleted, and how many subtasks it has."""

    task: TaskId
    subtask_count: int


def find_task(engine: Engine, task_hex: str, *, account: str) -> Document | None:
    """Return the account's task with that hex id; None if there is none."""
    with one_snapshot(engine) as connection:
        rows = connection.execute(_ONE, {"account": account, "hex": task_hex}).mappings().all()
        found = _documents(connection, rows)
    return found[0] if found else None


def find_tasks(engine: Engine, tasks: Sequence[TaskId], *, account: str) -> list[Document]:
    """Return the account's tasks with these ids, in their order."""
    with one_snapshot(engine) as connection:
        parameters = {"account": account, "tasks": list(tasks)}
        rows = {row["id"]: row for row in connection.execute(_SEVERAL, parameters).mappings()}
        return _documents(connection, [rows[task] for task in tasks if task in rows])


def count_and_list(
    engine: Engine,
    conditions: Sequence[Condition],
    *,
    account: str,
    orders: Sequence[Order],
    start: int,
    most: int,
    large: Collection[str],
) -> tuple[int, list[Document]]:
    """Return how many of the account's tasks match, and one page of them, the oldest first unless sorted otherwise."""
    matching, parameters = where(conditions, TASK_FIELDS)
    parameters |= {"account": account, "start": start, "most": most}
    count = f"SELECT count(*) FROM tasks AS t WHERE t.account = :account{matching}"
    page = f"""
SELECT {_COLUMNS} FROM tasks AS t WHERE t.account = :account{matching}
ORDER BY {order_by(orders or _BY_AGE, TASK_FIELDS, "t.id")} LIMIT :most OFFSET :start
"""
    with one_snapshot(engine) as connection:
        total = int(connection.execute(text(count), parameters).scalar_one())
        rows = connection.execute(text(page), parameters).mappings().all()
        return total, _documents(connection, rows, large)


def newest_of_each(
    engine: Engine,
    conditions: Sequence[Condition],
    *,
    account: str,
    start: int,
    most: int,
    large: Collection[str],
) -> list[Document]:
    """Return the newest task of each task type and instance among those that match, in the order of both."""
    matching, parameters = where(conditions, TASK_FIELDS)
    statement = f"""
SELECT DISTINCT ON (t.task_type, t.instance_id) {_COLUMNS} FROM tasks AS t
WHERE t.account = :account AND t.instance_id IS NOT NULL{matching}
ORDER BY t.task_type, t.instance_id, t.id DESC LIMIT :most OFFSET :start
"""
    parameters |= {"account": account, "start": start, "most": most}
    with one_snapshot(engine) as connection:
        rows = connection.execute(text(statement), parameters).mappings().all()
        return _documents(connection, rows, large)


def find_settled(engine: Engine, conditions: Sequence[Condition], *, account: str, most: int) -> list[Settled]:
    """Return which of the account's tasks match and have settled, the oldest first."""
    matching, parameters = where(conditions, TASK_FIELDS)
    statement = f"""
SELECT t.id, coalesce(t.subtask_count, 0) AS subtask_count FROM tasks AS t
WHERE t.account = :account AND t.state = ANY (CAST(:settled AS text[])){matching} ORDER BY t.id LIMIT :most
"""
    parameters |= {"account": account, "settled": sorted(SETTLED_TASK_STATES), "most": most}
    with one_statement(engine) as connection:
        rows = connection.execute(text(statement), parameters).mappings()
        return [Settled(TaskId(row["id"]), row["subtask_count"]) for row in rows]


def _documents(connection: Connection, rows: Sequence[RowMapping], large: Collection[str] = LARGE) -> list[Document]:
    headers = _headers(connection, rows) if "header" in large else {}
    details = _details(connection, rows) if "detail" in large else {}
    return [_document(row, headers.get(row["id"], _OMITTED), details.get(row["id"], [])) for row in rows]


def _headers(connection: Connection, rows: Sequence[RowMapping]) -> Mapping[int, object]:
    parameters = {"tasks": [row["id"] for row in rows], "bytes": MAX_BYTES}
    return {one["id"]: one["header"] for one in connection.execute(_HEADERS, parameters).mappings()}


def _details(connection: Connection, rows: Sequence[RowMapping]) -> Mapping[int, list[Document]]:
    tasks = {row["id"]: row for row in _first_with_subtasks(rows)}
    parameters = {"tasks": list(tasks), "most": MAX_SUBTASKS, "bytes": MAX_BYTES}
    subtasks = connection.execute(_DETAIL, parameters).mappings().all()
    arguments = _arguments(connection, {one["task_id"] for one in subtasks})
    found: dict[int, list[Document]] = defaultdict(list)
    for one in subtasks:
        task = one["task_id"]
        found[task].append(_subtask(one, tasks[task]["task_id"], arguments[task]))
    return found


def _first_with_subtasks(rows: Sequence[RowMapping]) -> Iterator[RowMapping]:
    """Yield those of whose subtasks some can be shown, or PostgreSQL would sort those of all."""
    before = 0
    for row in rows:
        if before >= MAX_SUBTASKS:
            return
        if row["subtask_count"]:
            before += row["subtask_count"]
            yield row


def _arguments(connection: Connection, tasks: Collection[int]) -> Mapping[int, TaskArguments]:
    rows = connection.execute(_ARGUMENTS, {"tasks": list(tasks)}).mappings()
    return {row["id"]: TaskArguments(row) for row in rows}


def _document(row: RowMapping, header: object, detail: list[Document]) -> Document:
    document = {
        "_id": row["task_id"][:24],
        "task_id": row["task_id"],
        "task_type": row["task_type"],
        "bk_inst_id": row["instance_id"],
        "user": row["shown_user"],
        "header": _multimap(header),
        "status": row["status"],
        "detail": detail,
        "bk_supplier_account": row["account"],
        "create_time": wire_time(time_of_epoch(row["created_at"])),
        "last_time": wire_time(time_of_epoch(row["updated_at"])),
    }
    left_out = (row["subtask_count"] or 0) - len(detail)
    return (
        document
        | ({"extra": row["extra"]} if row["extra"] else {})
        | ({"header_omitted": True} if header is _OMITTED else {})
        | ({"detail_omitted": left_out} if left_out > 0 else {})
    )


def _multimap(header: object) -> dict[str, list[str]]:
    """Return a header as its clients look into it: each name in the one spelling that Go gives it, with a list of values."""
    return {_canonical(name): [value] for name, value in header.items()} if isinstance(header, dict) else {}


def _canonical(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-"))


def _subtask(row: RowMapping, task_hex: str, arguments: TaskArguments) -> Document:
    given = arguments.of_subtask(row["arguments"] or {})
    return {
        "sub_task_id": subtask_hex(task_hex, row["series_id"]),
        "data": element_of(given) if row["kind"] == KIND and isinstance(given, dict) else given,
        "status": row["status"],
        "response": _response(row, arguments),
    }


def _response(row: RowMapping, arguments: TaskArguments) -> Document | None:
    """Return the receiver's whole answer; for what did not come as one, what says the same in that form."""
    result = arguments.result(row["result"])
    if isinstance(result, dict) and isinstance(result.get("result"), bool):
        return result
    if row["state"] == SubtaskState.SUCCESSFUL:
        return {"result": True, "bk_error_code": 0, "bk_error_msg": "success", "permission": None, "data": result}
    if row["state"] == SubtaskState.FAILED:
        said = row["error_message"] or "it failed"
        return {"result": False, "bk_error_code": NOT_DONE, "bk_error_msg": said, "permission": None, "data": result}
    return None
