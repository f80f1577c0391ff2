"""The whole graph of a task, as the planner takes it: one statement."""

from dataclasses import dataclass

from sqlalchemy import Engine, text

from schema.identity import TaskId
from taskserver.planner import PlanNode
from taskserver.queries.details import no_task
from taskserver.queries.reading import one_statement


@dataclass(frozen=True, slots=True)
class Graph:
    """All subtasks of a task with their edges and keys, and the live slots of each queue."""

    nodes: list[PlanNode]
    edges: list[tuple[int, int]]
    keys: dict[int, str]
    slots: dict[str, int]


_GRAPH = text(
    """
SELECT
    (
        SELECT json_agg(json_build_array(d.id, d.key, d.queue, s.isolated) ORDER BY d.series_id)
        FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id WHERE d.task_id = t.id
    ) AS nodes,
    ARRAY(SELECT upstream_id FROM subtask_edges WHERE task_id = t.id ORDER BY upstream_id, downstream_id) AS sources,
    ARRAY(SELECT downstream_id FROM subtask_edges WHERE task_id = t.id ORDER BY upstream_id, downstream_id) AS sinks,
    (
        SELECT json_object_agg(queue, slots) FROM (
            SELECT queue, sum(concurrency)::int AS slots FROM workers, unnest(queues) AS queue
            WHERE stopped_at IS NULL AND beat_at > now() - :silence * interval '1 second' GROUP BY queue
        ) AS live
    ) AS slots
FROM tasks AS t WHERE t.id = :task AND t.account = :account
"""
)


def task_graph(engine: Engine, task: TaskId, *, account: str, silence_seconds: float) -> Graph:
    """Return the task's whole graph, ended subtasks included.

    Raises:
        NotFound: The account has no such task.

    """
    parameters = {"task": task, "account": account, "silence": silence_seconds}
    with one_statement(engine) as connection:
        row = connection.execute(_GRAPH, parameters).mappings().one_or_none()
    if row is None:
        raise no_task(task)
    nodes = row["nodes"] or []
    return Graph(
        nodes=[PlanNode(id=id_, queue=queue, isolated=isolated) for id_, _, queue, isolated in nodes],
        edges=list(zip(row["sources"], row["sinks"], strict=True)),
        keys={id_: key for id_, key, _, _ in nodes},
        slots=row["slots"] or {},
    )
