"""One embedded PostgreSQL and Redis for the whole run, and a database as if new for each test that asks for one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Engine
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from schema.collection import settle_collector
from schema.database import make_engine
from taskserver.embedded.stack import EmbeddedStack
from tests.reused_database import ReusedDatabase

# The same examples in every run, however slow the machine is; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

_ACCEPTANCE = "tests/acceptance/"
_USERS = tuple(
    f"test_{one}"
    for one in (
        *(
            "cli",
            "client",
            "cmdb",
            "definitions",
            "demo",
            "doctor",
            "flower",
            "live",
            "ocp",
            "readme",
            "sops",
            "submitting",
        ),
        "tasks_table",
    )
)
# Nothing here outlives the run, and no table lives long enough to need a vacuum.
_POSTGRES = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}


class _Scheduling(LoadScopeScheduling):
    """Gives each process whole files, so that what a module shares is made once; acceptance in two lots.

    The acceptance tests run whole stacks. Those that watch the clock run one at a time, beside those that use the product
    as people do, and then beside everything else.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if not file.startswith(_ACCEPTANCE):
            return file
        return _ACCEPTANCE + ("users" if file.removeprefix(_ACCEPTANCE).startswith(_USERS) else "clock")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Set the garbage collector as every process of the product does, or the large graphs pay for all that pytest holds."""
    settle_collector()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("stack"), postgres_settings=_POSTGRES) as stack:
        yield stack


@pytest.fixture(scope="session")
def _database(stack: EmbeddedStack) -> Iterator[ReusedDatabase]:
    database = ReusedDatabase(stack.database_url, name="test")
    yield database
    database.close()


@pytest.fixture
def database_url(_database: ReusedDatabase) -> Iterator[str]:
    yield _database.url
    _database.renew()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, name="tests", pool_size=20)
    yield engine
    engine.dispose()


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    return tmp_path / "data"
