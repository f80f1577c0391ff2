"""One subtask with its arguments, its result and all its attempts: one statement."""

from typing import Any

from sqlalchemy import Engine, RowMapping, text

from schema.errors import NotFound
from schema.identity import SubtaskId, TaskId
from schema.states import BEGUN_SUBTASK_STATES
from taskserver.queries.details import no_task
from taskserver.queries.reading import one_statement
from taskserver.queries.subtask_rows import (
    JSON_ARRAY,
    SUBTASK_COLUMNS,
    SUBTASK_TABLES,
    TASK_FACTS,
    SubtaskMembers,
    SubtaskRow,
    failure,
    wire_text,
)
from taskserver.queries.task_arguments import TASK_ARGUMENTS, TaskArguments
from taskserver.views.subtasks import Attempt, SubtaskDetail

_SUBTASK = text(
    f"""
SELECT {TASK_FACTS}, {TASK_ARGUMENTS},
    (
        SELECT {JSON_ARRAY} FROM (
            SELECT {SUBTASK_COLUMNS}, r.result FROM {SUBTASK_TABLES} WHERE d.id = :subtask AND d.task_id = t.id
        ) AS c
    ) AS subtask,
    (SELECT arguments FROM subtask_specs WHERE id = :subtask) AS arguments,
    (SELECT to_json(started_at) FROM subtasks WHERE id = :subtask) AS live_since,
    ARRAY(SELECT upstream_id FROM subtask_edges WHERE downstream_id = :subtask ORDER BY 1) AS upstreams,
    ARRAY(SELECT downstream_id FROM subtask_edges WHERE upstream_id = :subtask ORDER BY 1) AS downstreams,
    ARRAY(
        SELECT e.upstream_id FROM subtask_edges AS e JOIN subtasks AS u ON u.id = e.upstream_id
        WHERE e.downstream_id = :subtask AND u.state <> 'SUCCESSFUL' AND NOT (u.state = 'FAILED' AND u.allow_failure)
        ORDER BY 1
    ) AS unfinished,
    ARRAY(
        SELECT e.downstream_id FROM subtask_edges AS e JOIN subtasks AS d ON d.id = e.downstream_id
        WHERE e.upstream_id = :subtask
            AND (d.state <> 'PENDING' OR (d.operation = 'ROLLBACK' AND d.gate IS DISTINCT FROM 'undone'))
        ORDER BY 1
    ) AS to_be_undone,
    (
        SELECT json_agg(json_build_array(attempt, operation, outcome, executor, started_at, finished_at, error_type,
            error_message, error_line, result) ORDER BY claim)
        FROM subtask_attempts WHERE subtask_id = :subtask
    ) AS attempts
FROM tasks AS t JOIN task_progress AS p ON p.id = t.id
WHERE t.id = :task AND t.account = :account
"""
)


def subtask_detail(
    engine: Engine,
    task: TaskId,
    subtask: SubtaskId,
    *,
    account: str,
    silence_seconds: float,
    flower_url: str | None = None,
) -> SubtaskDetail:
    """Return one subtask of the task, with where Flower shows it.

    Raises:
        NotFound: The account has no such task, or the task has no such subtask.

    """
    parameters = {"task": task, "subtask": subtask, "account": account, "silence": silence_seconds}
    with one_statement(engine) as connection:
        row = connection.execute(_SUBTASK, parameters).mappings().one_or_none()
    if row is None:
        raise no_task(task)
    if row["subtask"] is None:
        raise no_subtask(task, subtask)
    found = SubtaskRow._make(row["subtask"])
    arguments = TaskArguments(row)
    members = SubtaskMembers(row, arguments).of(
        found,
        upstreams=row["upstreams"],
        downstreams=row["downstreams"],
        holders=row["to_be_undone"] if found.gate == "downstreams" else row["unfinished"],
    )
    shown = flower_url is not None and found.attempt > 0
    return SubtaskDetail(
        **members,
        flower_url=f"{flower_url}/task/{members['celery_id']}" if shown else None,
        arguments=arguments.of_subtask(row["arguments"] or {}),
        attempts=_attempts(row, found, arguments),
    )


def no_subtask(task: TaskId, subtask: SubtaskId) -> NotFound:
    """Return the error for a subtask that the task does not have."""
    return NotFound(f"task {task} has no subtask {subtask}: its detail lists the subtasks it has", target=str(subtask))


def _attempts(row: RowMapping, subtask: SubtaskRow, arguments: TaskArguments) -> list[Attempt]:
    attempts = [_ended(arguments, *one) for one in row["attempts"] or ()]
    if subtask.state in BEGUN_SUBTASK_STATES:
        attempts.append(
            Attempt(
                attempt=subtask.attempt,
                operation=subtask.operation,
                status=subtask.state,
                executor=subtask.executor,
                start_time=wire_text(row["live_since"]),
            )
        )
    return attempts


def _ended(arguments: TaskArguments, number: int, operation: str, *rest: Any) -> Attempt:
    outcome, executor, started_at, finished_at, error_type, error_message, error_line, result = rest
    return Attempt(
        attempt=number,
        operation=operation,
        status=outcome,
        executor=executor,
        result=arguments.result(result),
        start_time=wire_text(started_at),
        finish_time=wire_text(finished_at),
        error=failure(error_type, error_message, error_line),
    )
