"""What a dispatcher does to a large task that has just come, of which PostgreSQL has no statistics yet."""

import re

from sqlalchemy import Engine, text

from schema.identity import TaskId
from schema.transitions import releases
from tests.factories import execute, make_task, many

SHARE = 500
SUBTASKS = 100_000
LARGE = (
    "INSERT INTO subtasks (id, task_id) SELECT nextval('subtask_ids'), :task FROM generate_series(2, 100000)",
    "UPDATE task_progress SET pending = 100000, startable = 100000 WHERE id = :task",
)


def large_task(engine: Engine) -> TaskId:
    """Store a large task where nothing was ever analysed."""
    task = make_task(engine, {"a": ()}).id
    for statement in LARGE:
        execute(engine, statement, task=task)
    return task


def test_a_release_compares_no_row_of_a_large_new_task_in_vain(engine: Engine) -> None:
    task = large_task(engine)
    first = many(
        engine, "SELECT id FROM subtasks WHERE task_id = :task ORDER BY id LIMIT :share", task=task, share=SHARE
    )
    ids = [row["id"] for row in first]

    with engine.connect() as connection:
        explained = text("EXPLAIN (ANALYZE) " + releases._RELEASE.text)
        given = {"ids": ids, "carriers": ids, "tasks": [task], "executor": "one"}
        plan = connection.execute(explained, given).scalars().all()
        connection.rollback()

    in_vain = sum(int(found[1]) for line in plan if (found := re.search(r"Removed by Join Filter: ([0-9]+)", line)))
    assert in_vain < SUBTASKS  # 49,999,500 and ten seconds, where the rows are not found by their ids
