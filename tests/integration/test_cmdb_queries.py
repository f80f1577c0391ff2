"""The questions of the BK-CMDB dialect at 100,000 tasks: each is answered through an index, and from few rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import ApiClient, running_api

TASKS = 100_000
TYPES = 20
INSTANCES = 1_000
# Each instance of a type has five tasks; the triggers, which would write the same, are left out to save time.
_FILL = (
    """
INSERT INTO tasks (id, task_id, account, task_type, instance_id, state, status, creator, subtask_count, finalized_at,
    created_at)
SELECT n, lpad(to_hex(n), 24, '0') || '00000000', '0', 'type' || n % :types, n / :types % :instances,
    CASE WHEN n % 100 < 98 THEN 'SUCCESSFUL' ELSE 'FAILED' END, 2, 'creator' || n % 7, 0, now(), 1700000000000 + n
FROM generate_series(1, :tasks) AS n
""",
    "INSERT INTO task_progress (id, account, priority) SELECT id, account, priority FROM tasks",
    """
INSERT INTO sync_history (task_id, task_hex, account, task_type, instance_id, extra, state, creator, created_at)
SELECT id, task_id, account, task_type, instance_id, extra, state, creator, to_timestamp(created_at / 1000.0) FROM tasks
""",
)


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in _FILL:
            connection.execute(text(statement), {"tasks": TASKS, "types": TYPES, "instances": INSTANCES})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE tasks, sync_history, task_progress"))
    with running_api(engine, stack.redis_url) as api:
        yield api


@contextmanager
def noted(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def plans(api: ApiClient, engine: Engine, path: str, body: object) -> list[dict[str, Any]]:
    """Return how PostgreSQL answers each statement of a call, with what it really did."""
    with noted(engine) as statements:
        answer = api.post(f"//task/v3{path}", json=body)
    assert answer.json()["result"] is True, answer.text
    asked = [one for one in statements if "FROM principals" not in one[0]]
    with engine.connect() as connection:
        return [
            connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters).scalar_one()[
                0
            ]
            for statement, parameters in asked
        ]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


HEXES = [f"{n:024x}00000000" for n in (5, 500, 50_000)]
LATEST = {"condition": {"task_type": "type3", "bk_inst_id": {"$in": [5, 50, 500]}}}
CALLS = {
    "a page of a type": ("/task/findmany/list/type3", {"page": {"limit": 20}}),
    "the newest of a type": ("/task/findmany/list/type3", {"page": {"limit": 20, "sort": "-create_time"}}),
    "tasks of instances": ("/task/findmany/list/type3", {"condition": {"bk_inst_id": {"$in": [5, 50]}}}),
    "tasks by id": ("/task/findmany/list/type3", {"condition": {"task_id": {"$in": HEXES}}}),
    "the newest of instances": ("/task/findmany/list/latest/type3", {"condition": {"bk_inst_id": {"$in": [5, 50]}}}),
    "the newest of all instances": ("/task/findmany/list/latest/type3", {"page": {"limit": 50}}),
    "all of a type": ("/task/findmany/list/type3", {"fields": ["task_id"], "page": {"limit": 999_999_999}}),
    "the newest of many instances": (
        "/task/findmany/list/latest/type3",
        {"condition": {"bk_inst_id": {"$in": list(range(10_000))}}, "fields": ["task_id", "bk_inst_id", "status"]},
    ),
    "what to delete": ("/task/deletemany", {"condition": {"task_id": {"$in": HEXES}, "status": "new"}}),
    "a task": (f"/task/findone/detail/{HEXES[0]}", None),
    "sync status of instances": ("/findmany/latest/sync_status", LATEST),
    "sync status of all": ("/findmany/latest/sync_status", {"page": {"limit": 50}}),
    "history of an instance": ("/findmany/sync_status_history", LATEST),
    "history by id": ("/findmany/sync_status_history", {"condition": {"task_id": {"$in": HEXES}}}),
    "a page of the history": ("/findmany/sync_status_history", {"page": {"limit": 50}, "disable_counter": True}),
}


def test_every_question_reads_few_rows_through_an_index(
    api: ApiClient, engine: Engine, subtests: pytest.Subtests
) -> None:
    for name, (path, body) in CALLS.items():
        with subtests.test(question=name):
            scans = [
                one
                for plan in plans(api, engine, path, body)
                for one in nodes(plan["Plan"])
                if one.get("Relation Name", "").startswith(("tasks", "sync_history", "subtask"))
            ]

            assert scans
            assert {one["Node Type"] for one in scans} <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
            # A count reads its type, or its instances.
            assert all(_read(one) <= TASKS / TYPES for one in scans)


def _read(scan: dict[str, Any]) -> float:
    removed = scan.get("Rows Removed by Filter", 0)
    return float((scan["Actual Rows"] + removed) * scan["Actual Loops"])
