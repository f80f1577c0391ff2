"""The detail of a task with all its subtasks: one statement, one snapshot, whatever the size."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Engine, RowMapping, text

from schema.errors import NotFound
from schema.identity import TaskId
from taskserver.projection import wire_time
from taskserver.queries.reading import one_statement
from taskserver.queries.subtask_rows import (
    JSON_ARRAY,
    SUBTASK_COLUMNS,
    SUBTASK_TABLES,
    TASK_FACTS,
    SubtaskMembers,
    SubtaskRow,
)
from taskserver.queries.task_arguments import TASK_ARGUMENTS, TaskArguments
from taskserver.queries.task_rows import HEAD, head_of
from taskserver.views.subtasks import Subtask
from taskserver.views.tasks import Task

# Results beyond this sum of stored bytes are left out of the detail; each can still be had by its own subtask.
RESULT_BYTES = 4 * 1024 * 1024

# subtask_specs is read by (task_id, series_id): the narrow subtasks table has no index on the task alone.
_DETAIL = text(
    f"""
SELECT {HEAD}, t.definition_id, t.prohibit_rollback, t.priority, t.extra, t.biz_id, t.start_at, t.trace_id,
    {TASK_ARGUMENTS}, {TASK_FACTS},
    (
        SELECT json_agg({JSON_ARRAY} ORDER BY c.series_id) FROM (
            SELECT {SUBTASK_COLUMNS}, CASE
                WHEN sum(pg_column_size(r.result)) OVER (ORDER BY d.series_id) <= :result_bytes THEN r.result
            END AS result
            FROM {SUBTASK_TABLES} WHERE d.task_id = t.id
        ) AS c
    ) AS subtasks,
    ARRAY(SELECT upstream_id FROM subtask_edges WHERE task_id = t.id ORDER BY upstream_id, downstream_id) AS sources,
    ARRAY(SELECT downstream_id FROM subtask_edges WHERE task_id = t.id ORDER BY upstream_id, downstream_id) AS sinks
FROM tasks AS t JOIN task_progress AS p ON p.id = t.id
WHERE t.id = ANY (CAST(:tasks AS bigint[])) AND t.account = :account
"""
)


def task_detail(engine: Engine, task: TaskId, *, account: str, silence_seconds: float) -> Task:
    """Return the task with its subtasks in topological order.

    Args:
        engine: Where.
        task: Which.
        account: Whose it must be.
        silence_seconds: How old a live worker's last beat may be.

    Raises:
        NotFound: The account has no such task.

    """
    return task_details(engine, [task], account=account, silence_seconds=silence_seconds)[0]


def task_details(engine: Engine, tasks: Sequence[TaskId], *, account: str, silence_seconds: float) -> list[Task]:
    """Return the details of several tasks, in the order asked for.

    Raises:
        NotFound: The account lacks one of them.

    """
    parameters = {"tasks": tasks, "account": account, "silence": silence_seconds, "result_bytes": RESULT_BYTES}
    with one_statement(engine) as connection:
        rows = {row["id"]: row for row in connection.execute(_DETAIL, parameters).mappings()}
    for task in tasks:
        if task not in rows:
            raise no_task(task)
    views = {task: _detail_view(row) for task, row in rows.items()}
    return [views[task] for task in tasks]


def _detail_view(row: RowMapping) -> Task:
    arguments = TaskArguments(row)
    subtasks = [SubtaskRow._make(one) for one in row["subtasks"] or ()]
    return Task(
        **head_of(row),
        task_definition_id=-1 if row["definition_id"] is None else row["definition_id"],
        prohibit_rollback=row["prohibit_rollback"] or any(one.forbids_rollback for one in subtasks),
        priority=row["priority"],
        extra=row["extra"] or None,
        biz_id=row["biz_id"],
        concurrency=row["concurrency"],
        start_at=wire_time(row["start_at"]),
        arguments=arguments.shown(),
        trace_id=row["trace_id"],
        subtasks=_subtask_views(row, subtasks, arguments),
    )


def no_task(task: TaskId) -> NotFound:
    """Return the error for a task that is not there, or is another account's: the two must look the same."""
    return NotFound(f"task {task} does not exist: list the tasks to see which do", target=str(task))


def _subtask_views(row: RowMapping, subtasks: list[SubtaskRow], arguments: TaskArguments) -> list[Subtask]:
    upstreams: dict[int, list[int]] = defaultdict(list)
    downstreams: dict[int, list[int]] = defaultdict(list)
    for source, sink in zip(row["sources"], row["sinks"], strict=True):
        upstreams[sink].append(source)
        downstreams[source].append(sink)
    done = {one.id for one in subtasks if one.satisfies_downstreams}
    to_be_undone = {one.id for one in subtasks if one.is_to_be_undone}
    members = SubtaskMembers(row, arguments)
    return [
        Subtask(
            **members.of(
                one,
                upstreams=upstreams[one.id],
                downstreams=downstreams[one.id],
                holders=[downstream for downstream in downstreams[one.id] if downstream in to_be_undone]
                if one.gate == "downstreams"
                else [upstream for upstream in upstreams[one.id] if upstream not in done],
            )
        )
        for one in subtasks
    ]
