"""The detail of a task with all its subtasks, or with the first ones alone: one statement, one snapshot, whatever the size.

The subtasks travel as one JSON array per column: of all the ways to bring many rows of many columns it is the cheapest.
"""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Engine, RowMapping, TextClause, text

from schema.errors import NotFound
from schema.identity import TaskId
from taskserver.projection import wire_time
from taskserver.queries.listing import MAX_SUBTASKS
from taskserver.queries.reading import one_statement
from taskserver.queries.subtask_rows import (
    SUBTASK_COLUMNS,
    SUBTASK_JOINS,
    TASK_FACTS,
    SubtaskMembers,
    SubtaskRow,
)
from taskserver.queries.task_arguments import TASK_ARGUMENTS, TaskArguments
from taskserver.queries.task_rows import HEAD, PRINCIPAL_ID, PRINCIPAL_JOIN, head_of
from taskserver.views.subtasks import Subtask
from taskserver.views.tasks import Task
from taskserver.wait_reasons import UNBEGUN_SUBTASK_STATES

# Results beyond this sum of stored bytes are left out of the detail; each can still be had by its own subtask.
RESULT_BYTES = 4 * 1024 * 1024

# subtask_specs is read by (task_id, series_id): the narrow subtasks table has no index on the task alone.
_FIRST = f"(SELECT * FROM subtask_specs WHERE task_id = t.id ORDER BY series_id LIMIT {MAX_SUBTASKS})"


def _detail(*, specs: str, edges: str) -> TextClause:
    return text(
        f"""
SELECT {HEAD}, {PRINCIPAL_ID}, t.definition_id, t.priority, t.extra, t.biz_id, t.start_at, t.trace_id, {TASK_ARGUMENTS}, {TASK_FACTS},
    t.prohibit_rollback OR EXISTS (
        SELECT FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id
        WHERE d.task_id = t.id AND d.prohibit_rollback AND s.attempted_at IS NOT NULL AND s.gate IS DISTINCT FROM 'undone'
    ) AS prohibit_rollback,
    (
        SELECT json_build_array({", ".join(f"json_agg(c.{name})" for name in SubtaskRow._fields)}) FROM (
            SELECT {SUBTASK_COLUMNS}, CASE
                WHEN sum(pg_column_size(r.result)) OVER (ORDER BY d.series_id) <= :result_bytes THEN r.result
            END AS result
            FROM {specs} {SUBTASK_JOINS} WHERE d.task_id = t.id ORDER BY d.series_id
        ) AS c
    ) AS subtasks,
    ARRAY(SELECT e.upstream_id FROM {edges} ORDER BY e.upstream_id, e.downstream_id) AS sources,
    ARRAY(SELECT e.downstream_id FROM {edges} ORDER BY e.upstream_id, e.downstream_id) AS sinks
FROM tasks AS t JOIN task_progress AS p ON p.id = t.id {PRINCIPAL_JOIN} t.creator
WHERE t.id = ANY (CAST(:tasks AS bigint[])) AND t.account = :account
"""
    )


_WHOLE = _detail(specs="subtask_specs AS d", edges="subtask_edges AS e WHERE e.task_id = t.id")
# All upstreams of the first are among the first.
_BEGINNING = _detail(specs=f"{_FIRST} AS d", edges=f"{_FIRST} AS f JOIN subtask_edges AS e ON e.downstream_id = f.id")


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
    return _details(engine, _WHOLE, tasks, account=account, silence_seconds=silence_seconds)


def short_detail(engine: Engine, task: TaskId, *, account: str, silence_seconds: float) -> Task:
    """Return the task with its first subtasks, at most `MAX_SUBTASKS`; they name only such downstreams.

    Raises:
        NotFound: The account has no such task.

    """
    return _details(engine, _BEGINNING, [task], account=account, silence_seconds=silence_seconds)[0]


def _details(
    engine: Engine, statement: TextClause, tasks: Sequence[TaskId], *, account: str, silence_seconds: float
) -> list[Task]:
    parameters = {"tasks": tasks, "account": account, "silence": silence_seconds, "result_bytes": RESULT_BYTES}
    with one_statement(engine) as connection:
        rows = {row["id"]: row for row in connection.execute(statement, parameters).mappings()}
    for task in tasks:
        if task not in rows:
            raise no_task(task)
    views = {task: _detail_view(row) for task, row in rows.items()}
    return [views[task] for task in tasks]


def _detail_view(row: RowMapping) -> Task:
    arguments = TaskArguments(row)
    return Task(
        **head_of(row),
        task_definition_id=-1 if row["definition_id"] is None else row["definition_id"],
        prohibit_rollback=row["prohibit_rollback"],
        priority=row["priority"],
        extra=row["extra"] or None,
        biz_id=row["biz_id"],
        concurrency=row["concurrency"],
        start_at=wire_time(row["start_at"]),
        arguments=arguments.shown(),
        trace_id=row["trace_id"],
        subtasks=_subtask_views(row, arguments),
    )


def no_task(task: TaskId) -> NotFound:
    """Return the error for a task that is not there, or is another account's: the two must look the same."""
    return NotFound(f"task {task} does not exist: list the tasks to see which do", target=str(task))


def _subtask_views(row: RowMapping, arguments: TaskArguments) -> list[Subtask]:
    subtasks = [SubtaskRow._make(one) for one in zip(*(column or () for column in row["subtasks"]), strict=True)]
    upstreams: dict[int, list[int]] = defaultdict(list)
    downstreams: dict[int, list[int]] = defaultdict(list)
    for source, sink in zip(row["sources"], row["sinks"], strict=True):
        upstreams[sink].append(source)
        downstreams[source].append(sink)
    done = {one.id for one in subtasks if one.satisfies_downstreams}
    to_be_undone = {one.id for one in subtasks if one.is_to_be_undone}
    members = SubtaskMembers(row, arguments)

    def holders(one: SubtaskRow) -> list[int]:
        if one.gate == "downstreams":
            return [downstream for downstream in downstreams[one.id] if downstream in to_be_undone]
        return [upstream for upstream in upstreams[one.id] if upstream not in done]

    return [
        Subtask.unchecked(
            members.of(
                one,
                upstreams=upstreams[one.id],
                downstreams=downstreams[one.id],
                holders=holders(one) if one.state in UNBEGUN_SUBTASK_STATES else (),
            )
        )
        for one in subtasks
    ]
