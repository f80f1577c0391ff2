"""Reading what may start, and what lies just ahead of it, for the dispatcher to plan. Writes nothing."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId


@dataclass(frozen=True, slots=True)
class Share:
    """How much of one task to load: the most startable subtasks, and whether only those that an operator named."""

    task: TaskId
    limit: int
    only_named: bool = False


@dataclass(frozen=True, slots=True)
class Startable:
    """A subtask at or just beyond the frontier."""

    id: SubtaskId
    queue: str
    kind: str
    series_id: int
    isolated: bool
    pending_upstreams: int


@dataclass(frozen=True, slots=True)
class Frontier:
    """One task's subtasks near its frontier, in topological order, and the edges among them."""

    task: TaskId
    task_hex: str
    nodes: tuple[Startable, ...]
    edges: tuple[tuple[int, int], ...]


# Breadth first from what may start, each node once; LIMIT ends the walk early. What it found is fetched by its ids, whatever
# the statistics say of a task that has just come: PostgreSQL does not look into a CASE.
_NODES = text(
    """
WITH RECURSIVE startable AS MATERIALIZED (
    SELECT s.id
    FROM unnest(CAST(:tasks AS bigint[]), CAST(:limits AS integer[]), CAST(:named AS boolean[])) AS g (task, most, named)
        CROSS JOIN LATERAL (
            SELECT id FROM subtasks
            WHERE task_id = g.task AND state = 'PENDING' AND pending_upstreams = 0 AND carrier IS NULL
                AND scheduled_at IS NULL AND gate IS NULL AND (NOT g.named OR operation <> 'EXECUTE')
            ORDER BY id LIMIT g.most
        ) AS s
), ahead (id) AS (
    SELECT id FROM startable
    UNION
    SELECT e.downstream_id FROM ahead AS a JOIN subtask_edges AS e ON e.upstream_id = a.id
), near AS (SELECT id FROM ahead LIMIT (SELECT count(*) FROM startable) + :ahead)
SELECT s.task_id, t.task_id AS task_hex, s.id, d.queue, d.kind, d.series_id, s.isolated, s.pending_upstreams
FROM subtasks AS s JOIN subtask_specs AS d ON d.id = s.id JOIN tasks AS t ON t.id = s.task_id
WHERE s.id = ANY (ARRAY(SELECT id FROM near)) AND CASE
    WHEN s.state = 'PENDING' AND s.carrier IS NULL AND s.scheduled_at IS NULL AND s.gate IS NULL
        AND (s.operation <> 'EXECUTE' OR s.task_id <> ALL (CAST(:named_tasks AS bigint[]))) THEN true END
ORDER BY s.id
"""
)
_EDGES = text(
    """
SELECT task_id, upstream_id, downstream_id FROM subtask_edges
WHERE upstream_id = ANY (CAST(:ids AS bigint[])) ORDER BY upstream_id, downstream_id
"""
)


def load_frontiers(connection: Connection, shares: Sequence[Share], *, ahead: int) -> list[Frontier]:
    """Return for each task what may start now, with some of what lies beyond it; a task with nothing is left out.

    Args:
        connection: A transaction that holds the tasks' progress rows.
        shares: How much of which tasks.
        ahead: The most subtasks beyond the startable ones, over all tasks.

    """
    parameters = {
        "tasks": [share.task for share in shares],
        "limits": [share.limit for share in shares],
        "named": [share.only_named for share in shares],
        "named_tasks": [share.task for share in shares if share.only_named],
        "ahead": ahead,
    }
    nodes: dict[TaskId, list[Startable]] = defaultdict(list)
    hexes: dict[TaskId, str] = {}
    for task, task_hex, *node in connection.execute(_NODES, parameters):
        nodes[task].append(Startable(*node))
        hexes[task] = task_hex
    edges = _load_edges(connection, {node.id for each in nodes.values() for node in each})
    wanted = [share.task for share in shares if share.task in nodes]
    return [Frontier(task, hexes[task], tuple(nodes[task]), tuple(edges[task])) for task in wanted]


def _load_edges(connection: Connection, ids: set[SubtaskId]) -> dict[TaskId, list[tuple[int, int]]]:
    edges: dict[TaskId, list[tuple[int, int]]] = defaultdict(list)
    if len(ids) > 1:
        for task, upstream, downstream in connection.execute(_EDGES, {"ids": sorted(ids)}):
            if downstream in ids:
                edges[task].append((upstream, downstream))
    return edges
