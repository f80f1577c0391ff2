"""Client commands start fast, because they import nothing that only servers and workers need."""

import re

import pytest

from tests.acceptance.conftest import Dev

SLOW = {"alembic", "celery", "fastapi", "flower", "kombu", "psycopg", "redis", "sqlalchemy", "structlog", "uvicorn"}


@pytest.mark.parametrize("words", ["list", "status {task} --watch", "show {task} --json", "log {task} noop", "kinds"])
def test_a_client_command_imports_no_part_of_a_server(dev: Dev, words: str) -> None:
    task = dev.run("submit", "--kind", "builtin.noop").stdout.strip()

    done = dev.run(*words.format(task=task).split(), PYTHONPROFILEIMPORTTIME="1")

    imported = {name.partition(".")[0] for name in re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE)}
    assert done.returncode == 0
    assert "httpx" in imported
    assert not imported & SLOW
