"""What a dispatcher asks about a large task that has just come, of which PostgreSQL has no statistics yet."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import Engine, TextClause, text

from schema.database import transaction
from schema.transitions import frontiers, releases
from tests.factories import execute, make_task

STATEMENTS: Mapping[str, tuple[TextClause, dict[str, Any]]] = {
    "release": (releases._RELEASE, {"ids": list(range(1, 501)), "carriers": list(range(1, 501)), "executor": "one"}),
    "frontier": (
        frontiers._NODES,
        {"limits": [500], "named": [False], "named_tasks": [], "ahead": 1000},
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_large_new_task_is_read_by_its_ids_before_the_first_analyze(engine: Engine, name: str) -> None:
    statement, parameters = STATEMENTS[name]
    task = make_task(engine, {"a": ()}).id
    execute(
        engine,
        "INSERT INTO subtasks (id, task_id) SELECT nextval('subtask_ids'), :task FROM generate_series(1, 20000)",
        task=task,
    )

    with transaction(engine) as connection:
        rows = connection.execute(text("EXPLAIN " + statement.text), {**parameters, "tasks": [task]}).scalars().all()

    plan = "\n".join(rows)
    assert "subtasks_pkey" in plan
    assert "Seq Scan on subtasks" not in plan
