"""What a worker reads to run a subtask: the task's own row, and the results of upstreams."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from schema.identity import TaskId
from schema.references import NO_RESULT
from schema.states import Operation, SubtaskState

_NO_TASK = TaskId(0)


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """The parts of a task that never change and that handlers may ask about."""

    id: TaskId = _NO_TASK
    hex_id: str = "0" * 32
    name: str = ""
    type: str = "MANUAL"
    task_type: str = "inline"
    account: str = "0"
    creator: str = ""
    instance_id: int | None = None
    extra: str = ""
    arguments: Mapping[str, object] = field(default_factory=dict)
    trace_id: str | None = None
    traceparent: str | None = None
    header: Mapping[str, str] = field(default_factory=dict)  # what came with a callback task, to be sent again
    callback: Mapping[str, object] | None = None  # of its definition: where its elements are posted to
    redacts: bool = False  # its definition hides values from who may see the task


# Of a task `t`. What a definition stores under `redact` is a list; whatever else somebody put there hides as well.
REDACTS = """EXISTS (
    SELECT FROM task_definitions AS f WHERE f.id = t.definition_id AND f.document -> 'redact' <> '[]'
)"""
_TASK = text(
    f"""
SELECT id, task_id AS hex_id, name, type, task_type, account, creator, instance_id, extra, argument, trace_id, traceparent,
    coalesce(header, '{{}}') AS header, (SELECT f.summary -> 'callback' FROM task_definitions AS f WHERE f.id = t.definition_id) AS callback,
    {REDACTS} AS redacts
FROM tasks AS t WHERE id = :task
"""  # noqa: S608 - a constant
)
_RESULTS = text(
    """
SELECT d.key, d.template_key, d.parallel_idx, s.state, s.operation, r.result
FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id LEFT JOIN subtask_results AS r ON r.subtask_id = d.id
WHERE d.task_id = :task
    AND (d.key = ANY (CAST(:keys AS text[])) OR d.template_key = ANY (CAST(:keys AS text[])))
ORDER BY d.series_id
"""
)


def load_task(connection: Connection, task: TaskId) -> TaskInfo:
    """Return what handlers may know of the task."""
    row = dict(connection.execute(_TASK, {"task": task}).mappings().one())
    argument = row.pop("argument")
    return TaskInfo(**row, arguments=json.loads(argument) if argument else {})


def load_results(connection: Connection, task: TaskId, keys: Collection[str]) -> dict[str, Any]:
    """Return the results of upstreams by key: of a `foreach` one the list, in order; `NO_RESULT` for a skipped one."""
    results: dict[str, Any] = {}
    for row in connection.execute(_RESULTS, {"task": task, "keys": sorted(keys)}).mappings():
        ended_well = row["state"] == SubtaskState.SUCCESSFUL and row["operation"] != Operation.SKIP
        value = row["result"] if ended_well or row["result"] is not None else NO_RESULT  # one to be undone has it still
        if row["template_key"] is None or row["template_key"] not in keys:
            results[row["key"]] = value
            continue
        elements = results.setdefault(row["template_key"], [])
        if row["parallel_idx"] >= 0:
            elements.append(value)
    return results
