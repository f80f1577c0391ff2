"""The published tasks table on the whole stack: programs that know its ten columns and nothing else."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, create_engine, text

from tests.acceptance.conftest import COMMAND_SECONDS, Dev, environment, running_dev
from tests.eventually import eventually

PAGE = Path(__file__).parents[2].joinpath("docs/tasks-table.md").read_text()
ECHO = {"key": "greet", "kind": "builtin.echo", "arguments": {"name": {"$arg": "/name"}}}


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def put(dev: Dev, name: str, *subtasks: dict[str, Any]) -> int:
    """Put a definition; return its id."""
    response = httpx.put(
        f"{dev.url}/api/v2/tasks/definitions/{name}",
        json={"subtasks": subtasks},
        headers={"Authorization": f"Bearer {dev.token}"},
    )
    assert response.status_code in {200, 201}, response.text
    return int(response.json()["data"]["id"])


@pytest.fixture
def database(dev: Dev) -> Iterator[Engine]:
    engine = create_engine(dev.environment["TASKSERVER_DATABASE_URL"])
    yield engine
    engine.dispose()


@dataclass
class Row:
    """The published struct, as an ORM fills it that takes its tags by the letter: times in seconds, no id, no status."""

    integration_id: int
    user_id: int
    client_id: int
    account_id: int
    template_id: int
    argument: str
    status: int = 0
    created_at: int = 1721818960
    updated_at: int = 1721818960


class Orm:
    """The statements that such an ORM sends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, rows: Sequence[Row]) -> list[int]:
        columns = list(vars(rows[0]))
        names = ", ".join(f'"{name}"' for name in columns)
        values = ", ".join("(" + ", ".join(f":{name}{place}" for name in columns) + ")" for place in range(len(rows)))
        given = {f"{name}{place}": value for place, row in enumerate(rows) for name, value in vars(row).items()}
        with self._engine.begin() as connection:
            statement = text(f'INSERT INTO "tasks" ({names}) VALUES {values} RETURNING "id"')
            return list(connection.execute(statement, given).scalars())

    def statuses(self, ids: Sequence[int]) -> set[int]:
        with self._engine.begin() as connection:
            statement = text('SELECT "status" FROM "tasks" WHERE "id" = ANY (:ids)')
            return set(connection.execute(statement, {"ids": list(ids)}).scalars())

    def first(self, id_: int) -> dict[str, Any]:
        with self._engine.begin() as connection:
            statement = text('SELECT * FROM "tasks" WHERE "id" = :id ORDER BY "tasks"."id" LIMIT 1')
            return dict(connection.execute(statement, {"id": id_}).mappings().one())


def test_what_the_page_shows_is_what_happens(dev: Dev, database: Engine) -> None:
    template = put(dev, "greet", ECHO)

    with database.begin() as connection:
        task, status = connection.execute(text(block("sql"))).one()
    done = subprocess.run(
        ["bash", "-euc", block("sh")],
        env=environment(URL=dev.url, TOKEN=dev.token, TEMPLATE=str(template)),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    decoder = json.JSONDecoder()
    listed, end = decoder.raw_decode(done.stdout)
    posted, _ = decoder.raw_decode(done.stdout, end)
    assert status == 0
    assert task in [row["id"] for row in listed["data"]]
    with dev.client() as server:
        for id_, name in ((task, "world"), (posted["data"][0]["id"], "you")):
            assert server.task(id_).wait(timeout=30).state == "SUCCESSFUL"
            assert server.task(id_).detail().subtasks[0].result == {"name": name}


def test_a_program_of_the_published_struct_runs_its_tasks(dev: Dev, database: Engine) -> None:
    template = put(dev, "greet", ECHO)
    program = Orm(database)

    good = program.create([Row(1, 2, 3, 4, template, json.dumps({"name": f"n{number}"})) for number in range(50)])
    [bad] = program.create([Row(1, 2, 3, 4, template, "no json")])

    eventually(lambda: program.statuses(good) == {2}, within=60, what="not all done")
    eventually(lambda: program.statuses([bad]) == {3}, within=10, what="not refused")
    row = program.first(good[7])
    assert (row["argument"], row["created_at"]) == ('{"name": "n7"}', 1721818960000)
    assert row["updated_at"] > row["created_at"]
    assert program.first(bad)["error"]["message"].startswith("argument is not JSON")
    with dev.client() as server:
        assert server.task(good[7]).detail().subtasks[0].result == {"name": "n7"}


def test_a_row_whose_subtask_fails_is_failed_and_can_be_retried_by_its_id(dev: Dev, database: Engine) -> None:
    template = put(dev, "stumble", {"key": "a", "kind": "builtin.fail", "arguments": {"message": "no", "times": 1}})
    program = Orm(database)
    [task] = program.create([Row(1, 2, 3, 4, template, "{}")])
    eventually(lambda: program.statuses([task]) == {3}, within=30, what="not failed")

    with dev.client() as server:
        server.task(task).retry()

    eventually(lambda: program.statuses([task]) == {2}, within=30, what="not done after a retry")


def test_a_row_that_was_inserted_while_the_server_was_dead_is_started_once(tmp_path: Path) -> None:
    with running_dev(tmp_path, "--concurrency", "1") as dev:
        template = put(dev, "greet", ECHO)
        engine = create_engine(dev.environment["TASKSERVER_DATABASE_URL"])
        program = Orm(engine)
        server = dev.pid("server")
        assert server is not None
        os.kill(server, signal.SIGKILL)
        tasks = program.create([Row(1, 2, 3, 4, template, '{"name": "late"}') for _ in range(20)])
        assert program.statuses(tasks) == {0}

        eventually(lambda: program.statuses(tasks) == {2}, within=60, what="not done")

        with engine.begin() as connection:
            attempts = connection.execute(text("SELECT task_id FROM subtask_attempts")).scalars().all()
            subtasks = connection.execute(text("SELECT task_id FROM subtasks")).scalars().all()
        assert sorted(attempts) == sorted(subtasks) == sorted(tasks)
        engine.dispose()


def test_a_program_follows_its_rows_over_http(dev: Dev) -> None:
    template = put(dev, "greet", ECHO)
    with httpx.Client(base_url=dev.url, headers={"Authorization": f"Bearer {dev.token}"}) as http:
        rows = [
            http.post(
                "/api/v1/tasks",
                json={"template_id": template, "client_id": 424242, "argument": json.dumps({"name": str(number)})},
            ).json()["data"][0]
            for number in range(5)
        ]

        def done() -> list[int]:
            found: list[int] = []
            parameters: dict[str, str | int] = {"client_id": 424242, "status": 2, "limit": 2}
            while True:
                page = http.get("/api/v1/tasks", params=parameters).json()
                found += [row["id"] for row in page["data"]]
                if "next_cursor" not in page:
                    return found
                parameters["cursor"] = page["next_cursor"]

        eventually(lambda: len(done()) == 5, within=30, what="not all done")
        assert done() == sorted((row["id"] for row in rows), reverse=True)
        [one] = http.get(f"/api/v1/tasks/{rows[0]['id']}").json()["data"]
        assert one == {**rows[0], "status": 2, "updated_at": one["updated_at"]}
