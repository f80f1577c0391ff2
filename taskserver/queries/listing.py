"""The list of tasks: filters, order, one page, and the first subtasks of each row, all on one snapshot.

Conditions are fixed texts chosen by which filters are given; values only ever travel as parameters.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, text

from schema.identity import TaskId
from schema.states import TaskState
from taskserver.queries.reading import one_snapshot
from taskserver.queries.task_rows import HEAD, PRINCIPAL_ID, PRINCIPAL_JOIN, head_of
from taskserver.views.subtasks import BasicSubtask
from taskserver.views.tasks import BasicTask, Page, TaskPage

MAX_SUBTASKS = 1_000
MAX_SUBTASKS_IN_ALL = 100_000


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to list; what is None does not filter. Names are as in `_CONDITIONS`."""

    name: str | None = None
    states: frozenset[TaskState] | None = None
    type: str | None = None
    task_type: str | None = None
    cluster_name: str | None = None
    cluster_id: int | None = None
    tenant_name: str | None = None
    tenant_id: int | None = None
    host_id: int | None = None
    creator: str | None = None
    instance_id: int | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


_CONDITIONS: Mapping[str, str] = {
    "name": "t.name ILIKE :name",
    "states": "t.state = ANY (CAST(:states AS text[]))",
    "type": "t.type = :type",
    "task_type": "t.task_type = :task_type",
    "cluster_name": "t.cluster ->> 'name' ILIKE :cluster_name",
    "cluster_id": "t.cluster -> 'id' = to_jsonb(CAST(:cluster_id AS bigint))",
    "tenant_name": "t.tenant ->> 'name' = :tenant_name",
    "tenant_id": "t.tenant -> 'id' = to_jsonb(CAST(:tenant_id AS bigint))",
    "host_id": "t.host_id = :host_id",
    "creator": "t.creator = :creator",
    "instance_id": "t.instance_id = :instance_id",
    "created_after": "t.created_at >= ceil(extract(epoch FROM CAST(:created_after AS timestamptz)) * 1000)::bigint",
    "created_before": "t.created_at < ceil(extract(epoch FROM CAST(:created_before AS timestamptz)) * 1000)::bigint",
}
_FUZZY = {"name", "cluster_name"}

SORT_COLUMNS: Mapping[str, str] = {
    "id": "t.id",
    "name": "t.name",
    "status": "t.status",
    "state": "t.state",
    "operation": "t.operation",
    "type": "t.type",
    "taskType": "t.task_type",
    "instanceId": "t.instance_id",
    "creator": "t.creator",
    "priority": "t.priority",
    "createTime": "t.created_at",
    "startTime": "t.started_at",
    "finishTime": "t.finalized_at",
}
_NULLABLE = {"instanceId", "startTime", "finishTime"}


@dataclass(frozen=True, slots=True)
class Order:
    """One sort criterion: a name of `SORT_COLUMNS` and its direction."""

    field: str
    descending: bool

    @property
    def clause(self) -> str:
        """The SQL of it; a name that is not on the whitelist is a KeyError."""
        # NULLS LAST only where there are any: with it an index cannot give the descending order.
        nulls = " NULLS LAST" if self.field in _NULLABLE else ""
        return f"{SORT_COLUMNS[self.field]} {'DESC' if self.descending else 'ASC'}{nulls}"


_SUBTASKS = text(
    """
SELECT d.task_id, s.id, coalesce(d.name, d.key) AS name, coalesce(d.description, d.key) AS description,
    s.state AS status, s.operation
FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id
WHERE d.task_id = ANY (CAST(:tasks AS bigint[])) AND d.series_id < :most
ORDER BY d.task_id, d.series_id
"""
)


def list_tasks(
    engine: Engine, wanted: TaskFilter, *, account: str, order: Sequence[Order], page: int, size: int
) -> TaskPage:
    """Return one page of the account's tasks; pages count from 1."""
    where, parameters = _where(wanted, account)
    with one_snapshot(engine) as connection:
        total, rows = _page(connection, where, parameters, order=order, page=page, size=size)
        subtasks = _first_subtasks(connection, rows)
    return TaskPage(
        contents=[BasicTask(**head_of(row), subtasks=subtasks.get(row["id"], [])) for row in rows],
        page=Page(total_elements=total, total_pages=-(-total // size), number=page, size=size),
    )


def task_ids(connection: Connection, wanted: TaskFilter, *, account: str, most: int) -> list[TaskId]:
    """Return the ids of the account's tasks that a filter finds, the oldest first; in the caller's transaction."""
    where, parameters = _where(wanted, account)
    statement = text(f"SELECT t.id FROM tasks AS t WHERE {where} ORDER BY t.id LIMIT :most")
    return [TaskId(one) for one in connection.execute(statement, {**parameters, "most": most}).scalars()]


def _where(wanted: TaskFilter, account: str) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {"account": account}
    conditions = ["t.account = :account"]
    for name in (one.name for one in fields(wanted)):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(_CONDITIONS[name])
            parameters[name] = _parameter(name, value)
    return " AND ".join(conditions), parameters


def _parameter(name: str, value: Any) -> Any:
    if name in _FUZZY:
        return "%" + value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    return sorted(value) if isinstance(value, frozenset) else value


def _page(
    connection: Connection, where: str, parameters: dict[str, Any], *, order: Sequence[Order], page: int, size: int
) -> tuple[int, Sequence[RowMapping]]:
    # The id makes every order total, so that no task is on two pages.
    orders = ", ".join([*(one.clause for one in order), "t.id DESC"])
    statement = f"""
SELECT counted.total, found.*, {PRINCIPAL_ID} FROM (SELECT count(*) AS total FROM tasks AS t WHERE {where}) AS counted LEFT JOIN (
    SELECT {HEAD}, row_number() OVER (ORDER BY {orders}) AS place
    FROM tasks AS t JOIN task_progress AS p ON p.id = t.id WHERE {where}
    ORDER BY {orders} LIMIT :size OFFSET :offset
) AS found ON true {PRINCIPAL_JOIN} found.creator ORDER BY found.place
"""
    rows = (
        connection.execute(text(statement), {**parameters, "size": size, "offset": (page - 1) * size}).mappings().all()
    )
    return rows[0]["total"], [row for row in rows if row["id"] is not None]


def _first_subtasks(connection: Connection, tasks: Sequence[RowMapping]) -> dict[int, list[BasicSubtask]]:
    found: dict[int, list[BasicSubtask]] = {}
    if not tasks:
        return found
    most = _most_for_each([row["subtask_count"] or 0 for row in tasks])
    for row in connection.execute(_SUBTASKS, {"tasks": [row["id"] for row in tasks], "most": most}).mappings():
        members = {name: row[name] for name in BasicSubtask.model_fields}
        found.setdefault(row["task_id"], []).append(BasicSubtask(**members))
    return found


def _most_for_each(counts: Sequence[int]) -> int:
    """Return how many subtasks a row may list, so that small tasks are whole and large ones share what is left."""

    def listed(most: int) -> int:
        return sum(min(count, most) for count in counts)

    return bisect_right(range(MAX_SUBTASKS + 1), MAX_SUBTASKS_IN_ALL, key=listed) - 1
