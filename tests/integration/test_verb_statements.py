"""A verb on one task reads that task, however many others there are."""

from typing import Any

from sqlalchemy import Engine, event

from schema.database import transaction
from tests.factories import StoredTask, execute, make_task
from tests.operators import use

_OTHERS = (
    """
INSERT INTO tasks (state, subtask_count, finalized_at) SELECT 'SUCCESSFUL', 10, now() FROM generate_series(1, 2000)
""",
    """
INSERT INTO subtasks (id, task_id, state, finalized_at, attempted_at)
SELECT 1000000 + t.id * 10 + n, t.id, 'SUCCESSFUL', now(), now() FROM tasks AS t, generate_series(0, 9) AS n
""",
    "INSERT INTO subtask_specs (id, task_id, series_id, key) SELECT id, task_id, id % 10, (id % 10)::text FROM subtasks",
    "INSERT INTO subtask_edges (upstream_id, downstream_id, task_id)"
    " SELECT id, id + 1, task_id FROM subtasks WHERE id % 10 < 9",
    """
INSERT INTO subtask_attempts (subtask_id, claim, task_id, attempt, operation, outcome, claimed_at, started_at)
SELECT id, 1, task_id, 1, 'EXECUTE', 'SUCCESSFUL', now(), now() FROM subtasks
""",
    "ANALYZE",
)


def test_no_statement_of_a_verb_reads_a_whole_table(engine: Engine) -> None:
    for statement in _OTHERS:
        execute(engine, statement)
    sent: dict[str, Any] = {}

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("WITH", "UPDATE", "SELECT", "INSERT")):
            sent[statement] = parameters

    _use_every_verb(engine)
    event.remove(engine, "before_cursor_execute", note)

    scans = []
    with transaction(engine) as connection:
        for statement, parameters in sent.items():
            plan = connection.exec_driver_sql("EXPLAIN " + statement, parameters).scalars().all()
            scans += [(line.strip(), statement) for line in plan if "Seq Scan" in line]
    assert len(sent) > 20
    assert scans == []


def _use_every_verb(engine: Engine) -> None:
    graph = {"a": (), "b": ("a",), "c": ("b",)}
    options = {"a": {"has_rollback": True, "allow_failure": True}, "b": {"has_rollback": True}}

    def make() -> StoredTask:
        task = make_task(engine, graph, options)
        task.run("a", verdict="FAILED")
        return task

    task = make()
    use(task, "pause")
    use(task, "resume")
    task.begin("b")
    use(task, "cancel", "b")
    task.record(task.held("b"))
    use(task, "retry")
    use(task, "cancel")
    task = make()
    task.run("b", verdict="FAILED")
    use(task, "retry", "b")
    task.run("b", verdict="FAILED")
    use(task, "skip", "a")
    use(task, "rollback")
    task.run("b", verdict="FAILED")
    use(task, "skip", "b")
    task.run("a", verdict="FAILED")
    use(task, "rollback")
    task.run("a")
    task = make()
    task.run("b", verdict="FAILED")
    use(task, "abandon")
