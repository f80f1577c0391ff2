"""A server of their own for the tests of what is sent while it happens."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from schema.database import make_engine
from taskserver.embedded.stack import EmbeddedStack
from tests.live import SERVER, LiveApi, live_api


@pytest.fixture
def served(engine: Engine) -> Iterator[Engine]:
    """The engine of the server: its connections can be told from the tests'."""
    served = make_engine(engine.url.render_as_string(hide_password=False), name=SERVER, pool_size=5)
    yield served
    served.dispose()


@pytest.fixture
def live(served: Engine, stack: EmbeddedStack) -> Iterator[LiveApi]:
    with live_api(served, stack.redis_url) as live:
        yield live
