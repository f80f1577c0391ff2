"""The columns that every view of a task needs, and how a row with them becomes the head of a view.

A row may have been inserted by plain SQL: its JSON columns and its times are taken for what they are, never trusted to be
what the API would have stored.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from schema.states import Operation, TaskState
from taskserver.projection import operation_of, status_of, time_of_epoch, wire_time
from taskserver.views.tasks import Cluster, Creator, Progress, TaskError, TaskStatus, Tenant

COUNTERS = "p.pending, p.ready, p.running, p.canceling, p.failed, p.successful, p.change_number"
HEAD = f"""t.id, t.task_id, t.name, t.cluster, t.tenant, t.user_id, t.creator, t.host_id, t.state, t.type, t.task_type,
    t.instance_id, t.operation, t.executor, t.subtask_count, t.abandoned, t.error, t.created_at, t.started_at,
    t.finalized_at, {COUNTERS}"""
# Beside HEAD, joined only to the rows that are answered.
PRINCIPAL_ID = "u.id AS principal_id"
PRINCIPAL_JOIN = "LEFT JOIN principals AS u ON u.name ="
STATUS = f"t.id, t.task_id, t.state, t.operation, {COUNTERS}"

_CLUSTER_MEMBERS = {"id": int, "name": str, "obClusterId": int, "type": str}
_TENANT_MEMBERS = {"id": int, "name": str, "obTenantId": int, "mode": str}
_ERROR_MEMBERS = {"type": str, "message": str, "subtask": str}


def head_of(row: RowMapping) -> dict[str, Any]:
    """Return the members that a task's row and its detail share, of a row with `HEAD` and `PRINCIPAL_ID`."""
    state = TaskState(row["state"])
    cluster = _members(row["cluster"], _CLUSTER_MEMBERS)
    tenant = _members(row["tenant"], _TENANT_MEMBERS)
    error = _members(row["error"], _ERROR_MEMBERS)
    return {
        "id": row["id"],
        "task_id": row["task_id"],
        "name": row["name"],
        "cluster": Cluster(**cluster) if cluster else None,
        "tenant": Tenant(**tenant) if tenant else None,
        "creator": Creator(id=_creator_id(row), name=row["creator"]),
        "host_id": row["host_id"],
        "status": status_of(state),
        "state": state,
        "type": row["type"],
        "task_type": row["task_type"],
        "instance_id": row["instance_id"],
        "operation": operation_of(state, Operation(row["operation"])),
        "executor": row["executor"],
        "progress": progress_of(row),
        "change_number": row["change_number"],
        "subtask_count": row["subtask_count"] or 0,
        "rolled_back": state is TaskState.ROLLED_BACK,
        "abandoned": row["abandoned"],
        "error": TaskError(**error) if error else None,
        "create_time": wire_time(time_of_epoch(row["created_at"])),
        "start_time": wire_time(row["started_at"]),
        "finish_time": wire_time(row["finalized_at"]),
    }


def _creator_id(row: RowMapping) -> int:
    """Return the submitted user, else the principal; a creator that is no principal, such as who inserted by SQL, has 0."""
    return row["user_id"] or row["principal_id"] or 0


def status_view(row: RowMapping) -> TaskStatus:
    """Return the status document of a row with `STATUS`."""
    state = TaskState(row["state"])
    return TaskStatus(
        id=row["id"],
        task_id=row["task_id"],
        status=status_of(state),
        state=state,
        operation=operation_of(state, Operation(row["operation"])),
        progress=progress_of(row),
        change_number=row["change_number"],
    )


def progress_of(row: RowMapping) -> Progress:
    """Return the counters of a row with `COUNTERS`, by state."""
    return Progress(
        PENDING=row["pending"],
        READY=row["ready"],
        RUNNING=row["running"],
        CANCELING=row["canceling"],
        FAILED=row["failed"],
        SUCCESSFUL=row["successful"],
    )


def _members(value: object, types: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return {name: value[name] for name, wanted in types.items() if type(value.get(name)) is wanted}
