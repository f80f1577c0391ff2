"""What `docs/submitting.md` shows is what happens, on the whole stack."""

import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import httpx
from sqlalchemy import create_engine, text

from schema.database import make_engine
from taskserver.submission import submit
from tests.acceptance.conftest import COMMAND_SECONDS, Dev, environment
from tests.eventually import eventually

DOCUMENT = Path(__file__).parents[2].joinpath("docs/submitting.md").read_text()
ECHO = {"key": "a", "kind": "builtin.echo"}


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of the document in that language."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def run(command: list[str], **env: str) -> str:
    done = subprocess.run(
        command, env=environment(**env), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_key_leads_to_the_same_task(dev: Dev) -> None:
    [script] = blocks("sh")

    first, second = run(["bash", "-euc", script], URL=dev.url, TOKEN=dev.token).splitlines()

    assert (first[:4], second[:4]) == ("201 ", "200 ")
    assert first[4:] == second[4:]
    with dev.client() as server:
        assert server.task(int(first.rpartition("/")[2])).wait(timeout=30).state == "SUCCESSFUL"


def test_a_task_is_stored_with_the_callers_rows(dev: Dev) -> None:
    engine = create_engine(dev.environment["TASKSERVER_DATABASE_URL"])
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS hosts (name text)"))

    printed = [run([sys.executable, "-c", code], **dev.environment) for code in blocks("python")]

    with engine.begin() as connection:
        names = connection.execute(text("SELECT name FROM hosts ORDER BY name")).scalars().all()
        newest = connection.execute(text("SELECT max(id) FROM tasks WHERE creator = 'inventory'")).scalar_one()
        connection.execute(text("DROP TABLE hosts"))
    engine.dispose()
    assert names == ["db1", "db2"]
    first = re.fullmatch(r"task (\d+) is stored and will run\n", printed[0])
    assert first is not None
    with dev.client() as server:
        states = [server.task(task).wait(timeout=30).state for task in (int(first[1]), newest)]
    assert states == ["SUCCESSFUL", "SUCCESSFUL"]


def test_a_task_of_the_caller_starts_only_when_the_caller_commits(dev: Dev) -> None:
    engine = make_engine(dev.environment["TASKSERVER_DATABASE_URL"], name="tests")
    with engine.connect() as connection, dev.client() as server:
        task = submit(connection, {"name": "late", "subtasks": [ECHO]})
        assert server.tasks(name="late").contents == []
        connection.commit()

        assert server.task(task).wait(timeout=30).state == "SUCCESSFUL"
    engine.dispose()


def test_an_open_transaction_of_the_caller_holds_up_its_own_only(dev: Dev) -> None:
    """As many as the server has threads want what is held, again and again, while others go on."""
    held = {"name": "held", "subtasks": [ECHO], "instanceId": 4242}
    url, headers = f"{dev.url}/api/v2/tasks/instances", {"Authorization": f"Bearer {dev.token}"}
    over = threading.Event()
    codes: list[int] = []

    def insist(http: httpx.Client) -> None:
        while not over.is_set():
            codes.append(http.post(url, json=held, headers=headers).status_code)

    engine = make_engine(dev.environment["TASKSERVER_DATABASE_URL"], name="tests")
    with (
        httpx.Client(limits=httpx.Limits(max_connections=None), timeout=60) as http,
        ThreadPoolExecutor(40) as senders,
        dev.client() as server,
    ):
        try:
            with engine.connect() as connection:
                submit(connection, held)
                insisting = [senders.submit(insist, http) for _ in range(40)]
                eventually(lambda: codes)
                began = time.monotonic()
                settled = [server.submit(subtasks=[ECHO]).wait(timeout=30).state for _ in range(3)]
                ready = http.get(f"{dev.url}/readyz").status_code
                took = time.monotonic() - began
                answered = set(codes)
        finally:
            over.set()
        for one in insisting:
            one.result()
    engine.dispose()

    assert (settled, ready, answered) == (["SUCCESSFUL"] * 3, 200, {503})
    assert took < 10
    assert set(codes) <= {201, 409, 503}


def test_the_dispatcher_has_connections_of_its_own(dev: Dev) -> None:
    engine = make_engine(dev.environment["TASKSERVER_DATABASE_URL"], name="tests")
    with dev.client() as server:
        server.submit(subtasks=[ECHO]).wait(timeout=30)
    with engine.begin() as connection:
        query = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'taskserver-%'"
        names = set(connection.execute(text(query)).scalars())
    engine.dispose()

    assert {"taskserver-server", "taskserver-dispatcher"} <= names


def test_tasks_of_one_instance_run_one_after_another(dev: Dev) -> None:
    with dev.client() as server:
        names = [f"turn {number}" for number in range(5)]
        members = {"instanceId": 77, "extra": "turns", "onDuplicate": "queue"}
        sleep = {"key": "a", "kind": "builtin.sleep", "arguments": {"seconds": 0.1}}
        tasks = server.submit_batch([{"name": name, "subtasks": [sleep], **members} for name in names])

        states = [task.wait(timeout=60).state for task in tasks]

    assert states == ["SUCCESSFUL"] * 5
    engine = make_engine(dev.environment["TASKSERVER_DATABASE_URL"], name="tests")
    with engine.begin() as connection:
        query = text("SELECT started_at, finalized_at FROM tasks WHERE extra = 'turns' ORDER BY id")
        turns = connection.execute(query).all()
    engine.dispose()
    assert len(turns) == len(names)
    assert all(before.finalized_at <= after.started_at for before, after in pairwise(turns))
