"""One embedded PostgreSQL and Redis for the whole run, and an own database for each test that asks for one."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from schema.database import make_engine
from schema.migration import migrate
from taskserver.embedded.stack import EmbeddedStack

_TEMPLATE = "template_taskserver"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("stack"), postgres_settings={"fsync": "off"}) as stack:
        yield stack


@pytest.fixture(scope="session")
def _template(stack: EmbeddedStack) -> Iterator[Engine]:
    """Migrate a database once; the tests get copies of it."""
    maintenance = make_engine(stack.database_url, name="tests").execution_options(isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {_TEMPLATE}"))
    engine = make_engine(_named(stack.database_url, _TEMPLATE), name="tests")
    migrate(engine)
    engine.dispose()
    yield maintenance
    maintenance.dispose()


@pytest.fixture
def database_url(stack: EmbeddedStack, _template: Engine) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with _template.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}"))
    yield _named(stack.database_url, name)
    with _template.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, name="tests", pool_size=20)
    yield engine
    engine.dispose()


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


def _named(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)
