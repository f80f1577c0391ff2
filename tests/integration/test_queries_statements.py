"""How much the read side asks of the database: statements are counted, not timed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, make_task


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        api.data("/kinds")  # so that who asks is known
        yield api


@pytest.fixture
def task(engine: Engine) -> StoredTask:
    graph: dict[str, tuple[str, ...]] = {"first": ()} | {f"w[{index}]": ("first",) for index in range(200)}
    stored = make_task(engine, graph)
    stored.run("first")
    return stored


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/instances/{id}/status", 1),
        ("/instances/status?ids={id},1,2,3", 1),
        ("/instances/{id}", 1),
        ("/instances/{id}/subtasks?key=first", 1),
        ("/instances/{id}/subtasks/{sid}", 1),
        ("/instances/{id}/subtasks/{sid}/log", 1),
        ("/instances/{id}/plan", 1),
        ("/instances/{id}/operations", 1),
        ("/instances?size=100", 2),
        ("/kinds", 1),
        ("/workers", 1),
    ],
)
def test_an_answer_takes_few_statements_and_writes_nothing(
    api: ApiClient, engine: Engine, task: StoredTask, path: str, most: int
) -> None:
    with counted(engine) as statements:
        api.data(path.format(id=task.id, sid=task.ids["first"]))

    assert len(statements) <= most
    assert all(one.lstrip().startswith("SELECT") for one in statements)
    assert not any(word in one for one in statements for word in ("FOR UPDATE", "INSERT", "DELETE"))


def test_a_list_and_its_subtasks_are_one_snapshot(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    done: list[bool] = []

    def finish(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "series_id <" in statement and not done:
            done.append(True)
            task.run("a")

    event.listen(engine, "before_cursor_execute", finish)
    try:
        row = api.data("/instances")["contents"][0]
    finally:
        event.remove(engine, "before_cursor_execute", finish)

    assert done
    assert row["progress"]["PENDING"] == 1
    assert [one["status"] for one in row["subtasks"]] == ["PENDING"]
