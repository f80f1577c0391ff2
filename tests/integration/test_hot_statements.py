"""At some thousands of rows the statements of every step and every look read through an index, never a whole table."""

from typing import Any

from sqlalchemy import Engine, TextClause, text

from schema.database import transaction
from schema.transitions import claims, declining, frontiers, records, releases, rescues, settlement, turning
from tests.factories import execute

_ROWS = (
    """
INSERT INTO tasks (account, state, subtask_count, finalized_at)
SELECT (n % 5)::text, CASE WHEN n % 20 = 0 THEN 'RUNNING' ELSE 'SUCCESSFUL' END, 10,
    CASE WHEN n % 20 <> 0 THEN now() END
FROM generate_series(1, 2000) AS n
""",
    """
INSERT INTO subtasks (id, task_id, state, finalized_at)
SELECT t.id * 10 + n, t.id, CASE WHEN t.state = 'RUNNING' THEN 'PENDING' ELSE 'SUCCESSFUL' END,
    CASE WHEN t.state <> 'RUNNING' THEN now() END
FROM tasks AS t, generate_series(0, 9) AS n
""",
    "INSERT INTO subtask_specs (id, task_id, series_id, key) SELECT id, task_id, id % 10, (id % 10)::text FROM subtasks",
    "INSERT INTO subtask_edges (upstream_id, downstream_id, task_id)"
    " SELECT id, id + 1, task_id FROM subtasks WHERE id % 10 < 9",
    "UPDATE subtasks SET pending_upstreams = 1 WHERE id % 10 > 0 AND state = 'PENDING'",
    "UPDATE task_progress AS p SET open = true, startable = 1 FROM tasks AS t WHERE t.id = p.id AND t.state = 'RUNNING'",
    """
INSERT INTO subtask_attempts (subtask_id, claim, task_id, attempt, operation, outcome, claimed_at, started_at)
SELECT id, 1, task_id, 1, 'EXECUTE', 'SUCCESSFUL', now(), now() FROM subtasks WHERE state = 'SUCCESSFUL'
""",
    "ANALYZE",
)
_STATEMENTS: dict[str, tuple[TextClause, dict[str, Any]]] = {
    "frontier": (
        frontiers._NODES,
        {"tasks": [20, 21], "limits": [5000, 5000], "named": [False, False], "named_tasks": [], "ahead": 1000},
    ),
    "edges": (frontiers._EDGES, {"ids": [200, 201, 202]}),
    "release": (releases._RELEASE, {"ids": [200], "carriers": [4096], "tasks": [20], "executor": "one"}),
    "candidates": (releases._CANDIDATES, {"limit": 200, "full": [], "but": []}),
    "due": (releases._DUE_TASKS, {"limit": 200}),
    "open due": (releases._OPEN_DUE, {}),
    "next time": (releases._NEXT_TIME, {}),
    "claim": (claims._CLAIM, {"ids": [200], "task": 20, "process": 1, "executor": "one"}),
    "hand back": (claims._RETURN, {"ids": [200], "begun": [], "task": 20, "carrier": 4096, "claim": 0, "process": 1}),
    "decline": (
        declining._DECLINE,
        {"ids": [200], "task": 20, "kinds": ["a"], "carrier": 4096, "claim": 1, "process": 1},
    ),
    "drop": (claims._DROP, {"task": 20, "first": 1, "last": 9, "own": 1, "operations": ["EXECUTE"]}),
    "record": (
        records._RECORD,
        {
            "outcomes": '[{"id": 200, "verdict": "SUCCESSFUL", "lost": false}]',
            "task": 20,
            "claim": 1,
            "ids": [201],
            "process": 1,
            "executor": "one",
        },
    ),
    "named": (settlement._NAMED, {"task": 20}),
    "settle": (settlement._SETTLE, {"task": 20, "state": "FAILED", "late": False, "backwards": False}),
    "unfinished": (turning._UNFINISHED, {"limit": 20}),
    "lost claims": (rescues._LOST_CLAIMS, {"silence": 5.0, "limit": 500}),
    "old releases": (rescues._READY_QUEUES, {"age": 2.0}),
    "held": (rescues._HELD, {"task": 20, "claim": 1, "process": 1, "cap": 3}),
}


def test_no_hot_statement_reads_a_whole_table(engine: Engine) -> None:
    for statement in _ROWS:
        execute(engine, statement)

    plans = {}
    with transaction(engine) as connection:
        for name, (statement, parameters) in _STATEMENTS.items():
            plans[name] = "\n".join(connection.execute(text("EXPLAIN " + statement.text), parameters).scalars())

    scans = {
        name: [line.strip() for line in plan.splitlines() if "Seq Scan" in line and " on workers" not in line]
        for name, plan in plans.items()
    }
    assert {name: lines for name, lines in scans.items() if lines} == {}
    for name, index in {
        "frontier": "subtasks_startable",
        "drop": "subtasks_carried",
        "settle": "subtasks_failed",
        "lost claims": "subtasks_claimed",
        "old releases": "subtasks_carried",
        "due": "subtasks_scheduled",
        "candidates": "task_progress_startable",
        "open due": "task_progress_opens",
    }.items():
        assert index in plans[name], plans[name]
