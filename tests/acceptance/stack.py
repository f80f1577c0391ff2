"""The whole product as its users run it, one for each module of tests: real servers, a server process, a real worker."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from sqlalchemy import Engine, text

from schema.celeryapp import make_redis
from schema.database import make_engine
from schema.settings import Settings
from schema.states import SETTLED_TASK_STATES
from schema.wire import DEFAULT_QUEUE
from taskserver.dev_directory import DevDirectory, settings_of_dev
from taskserver.development import Development, DevelopmentOptions
from taskserver.supervision.supervisor import Supervisor
from tests.eventually import eventually
from tests.invariants import assert_invariants

HANDLERS = "tests.acceptance.handlers"
REPOSITORY = Path(__file__).parents[2]
_PATH = "/api/v2/tasks/instances"
# Dead and lost are told sooner than by default, or the tests would mostly wait.
SETTINGS = {
    "TASKSERVER_BEAT_SECONDS": "0.3",
    "TASKSERVER_DEAD_AFTER_SECONDS": "2",
    "TASKSERVER_LOST_AFTER_SECONDS": "1",
}

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row of the record."""

    key: str
    attempt: int
    outcome: str
    error_type: str | None


class Product:
    """A running product, its servers, and what tests ask and do most."""

    def __init__(self, directory: Path) -> None:
        data = DevDirectory(directory)
        settings = settings_of_dev(Settings.load(), directory)
        assert data.url is not None
        self.directory = directory
        self.engine: Engine = make_engine(settings.require_database(), name="tests", pool_size=5)
        self.redis: Redis = make_redis(settings)
        self.http = httpx.Client(
            base_url=data.url, headers={"Authorization": f"Bearer {data.token}"}, timeout=httpx.Timeout(70)
        )

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
        self.redis.close()
        self.engine.dispose()

    def submit(self, subtasks: Sequence[Document], **fields: object) -> int:
        """Submit a task and return its id."""
        answer = self.http.post(_PATH, json={"subtasks": list(subtasks), **fields})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["data"]["id"])

    def submit_many(self, tasks: Sequence[Sequence[Document]]) -> list[int]:
        """Submit tasks one by one and return their ids."""
        return [self.submit(subtasks) for subtasks in tasks]

    def settle(self, task: int, *, within: float = 30.0) -> str:
        """Wait until the task has settled, also while servers come and go, and return its state."""
        status = eventually(lambda: self._settled(task), within=within, what=f"task {task} is settled")
        return str(status["state"])

    def _settled(self, task: int) -> Document | None:
        parameters: dict[str, str | int] = {"until": "settled", "waitSeconds": 1}
        try:
            answer = self.http.get(f"{_PATH}/{task}/status", params=parameters)
        except httpx.TransportError:
            return None
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return None
        assert answer.status_code == httpx.codes.OK, answer.text
        status: Document = answer.json()["data"]
        return status if status["state"] in SETTLED_TASK_STATES else None

    def assert_successful(self, tasks: Sequence[int], *, within: float = 40.0) -> None:
        """Wait for tasks, and check that each ended well."""
        states = {task: self.settle(task, within=within) for task in tasks}
        bad = {task: state for task, state in states.items() if state != "SUCCESSFUL"}
        assert not bad, f"{bad}; attempts: {[self.attempts(task) for task in bad]}"

    def detail(self, task: int) -> Document:
        """Return the task with its subtasks."""
        answer = self.http.get(f"{_PATH}/{task}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["data"])

    def subtasks(self, task: int) -> dict[str, Document]:
        """Return the task's subtasks by key."""
        return {one["key"]: one for one in self.detail(task)["subtasks"]}

    def log(self, task: int, key: str) -> str:
        """Return all of a subtask's log."""
        subtask = self.subtasks(task)[key]["id"]
        return str(self.http.get(f"{_PATH}/{task}/subtasks/{subtask}/log").json()["data"]["log"])

    def attempts(self, task: int) -> list[Attempt]:
        """Return the record of all attempts, in order."""
        rows = self.rows(
            "SELECT d.key, a.attempt, a.outcome, a.error_type FROM subtask_attempts AS a"
            " JOIN subtask_specs AS d ON d.id = a.subtask_id WHERE a.task_id = :task ORDER BY d.series_id, a.attempt",
            task=task,
        )
        return [Attempt(**row) for row in rows]

    def results(self, task: int) -> dict[str, Any]:
        """Return what the subtasks returned, by key."""
        rows = self.rows(
            "SELECT d.key, r.result FROM subtask_results AS r JOIN subtask_specs AS d ON d.id = r.subtask_id"
            " WHERE r.task_id = :task",
            task=task,
        )
        return {row["key"]: row["result"] for row in rows}

    def rows(self, query: str, **parameters: object) -> Sequence[Mapping[str, Any]]:
        """Ask PostgreSQL."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query), parameters).mappings()]

    def idle(self) -> None:
        """Wait until nothing is left of what other tests did: no message, no unsettled task, no held slot."""
        eventually(
            lambda: (
                not self.redis.llen(DEFAULT_QUEUE)
                and not self.rows("SELECT id FROM tasks WHERE finalized_at IS NULL")
                and not self.rows("SELECT id FROM workers WHERE carriers <> '{}' AND beat_at > now() - interval '2 s'")
            ),
            within=30,
            what="the product is idle",
        )


class Running(Product):
    """A product whose supervisor is in this process."""

    def __init__(self, directory: Path, supervisor: Supervisor) -> None:
        super().__init__(directory)
        self.supervisor = supervisor

    def pid(self, part: str) -> int:
        """Return the pid of a part that runs."""
        return eventually(lambda: self.supervisor.pid(part), what=f"{part} runs")

    def kill(self, part: str) -> int:
        """Kill a part with all its processes, as a machine that loses power would; return its pid."""
        pid = self.pid(part)
        os.killpg(pid, signal.SIGKILL)
        return pid

    def restarted(self, part: str, before: int) -> None:
        """Wait until the supervisor has put another process in the place of the one before."""
        eventually(
            lambda: self.supervisor.pid(part) not in {None, before} and self.supervisor.is_ready(part),
            within=40,
            what=f"{part} is started again",
        )


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Give the parts these settings and no others, whatever the machine's environment says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("TASKSERVER_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.chdir(REPOSITORY)
        yield


@contextmanager
def running(directory: Path, *, concurrency: int = 2, settings: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run the product in the directory for the block; at its end everything must have settled, as the tables promise."""
    options = DevelopmentOptions(directory=directory, port=0, handlers=(HANDLERS,), concurrency=concurrency)
    with (
        environment({**SETTINGS, **(settings or {})}),
        Development(Settings.load(), options) as dev,
    ):
        product = Running(directory, dev.supervisor)
        try:
            yield product
            product.idle()
            assert_invariants(product.engine)
        finally:
            product.close()


def ledger(directory: Path) -> list[list[str]]:
    """Return what handlers noted there, a list of words for each run that began."""
    file = directory / "ledger"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_runs(directory: Path, count: int) -> list[list[str]]:
    """Wait until so many runs have begun, and return them."""
    return eventually(lambda: (runs := ledger(directory)) and len(runs) >= count and runs, what=f"{count} runs began")
