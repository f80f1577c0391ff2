"""The rules of the code's shape, read from its syntax."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schema", "taskserver", "workers")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

MOST_LINES = 400
MOST_FUNCTION_LINES = 50
FORBIDDEN_STEMS = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc"}
# What users import: `from workers import …`, `from taskserver.client import …`.
FILLED_INITS = {"workers/__init__.py", "workers/handlers/__init__.py", "taskserver/client/__init__.py"}
MAY_NOT_IMPORT = {
    "schema": {"taskserver", "workers"},
    "taskserver": {"workers"},
    "workers": {"taskserver"},
}
MAY_USE_CELERY_IN_SCHEMA = {"schema/celeryapp.py"}
MAY_WRITE_SQL = (
    "schema/transitions/",
    "schema/migrations/",
    "schema/migration.py",  # its lock
    "schema/inputs.py",  # what a handler is given, read by workers
    "schema/task_events.py",  # how attempts ended that somebody else recorded, for Flower
    "taskserver/queries/",
    "schema/callers_transaction.py",  # its search path
    "taskserver/principals.py",
)


def _tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), filename=name)


def _imports(name: str) -> Iterator[str]:
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}:{node.lineno} imports relatively; name the package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_imports(name: str) -> set[str]:
    return {module.partition(".")[0] for module in _imports(name)}


def test_there_is_something_to_judge() -> None:
    assert {name.partition("/")[0] for name in NAMES} == set(PACKAGES)


@pytest.mark.parametrize("name", NAMES)
def test_taskserver_and_workers_meet_in_schema_only(name: str) -> None:
    package = name.partition("/")[0]

    assert not _top_imports(name) & MAY_NOT_IMPORT[package]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("schema/")])
def test_schema_knows_celery_in_one_file_only(name: str) -> None:
    if name not in MAY_USE_CELERY_IN_SCHEMA:
        assert not _top_imports(name) & {"celery", "kombu", "billiard"}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("taskserver/")])
def test_the_canvas_is_known_to_one_file_only(name: str) -> None:
    if name != "taskserver/canvas.py":
        assert not [one for one in _imports(name) if one.startswith(("celery.canvas", "celery.chain", "celery.chord"))]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("workers/handlers/")])
def test_handlers_know_neither_celery_nor_sql(name: str) -> None:
    assert not _top_imports(name) & {"celery", "kombu", "sqlalchemy", "psycopg"}


@pytest.mark.parametrize("name", NAMES)
def test_sql_is_written_where_it_belongs(name: str) -> None:
    writes = any(one == "sqlalchemy.text" for one in _imports(name))

    assert not writes or name.startswith(MAY_WRITE_SQL)


@pytest.mark.parametrize("name", NAMES)
def test_no_state_is_written_outside_the_transitions(name: str) -> None:
    if name.startswith(("schema/transitions/", "schema/migrations/")):
        return
    strings = [
        " ".join(node.value.split())
        for node in ast.walk(_tree(name))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]

    written = [one for one in strings for table in ("tasks", "subtasks", "task_progress") if f"UPDATE {table} " in one]
    assert not written


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_stay_small(name: str) -> None:
    text = (ROOT / name).read_text()
    assert len(text.splitlines()) <= MOST_LINES or name.startswith("schema/migrations/versions/")

    functions = [node for node in ast.walk(_tree(name)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {node.name: length for node in functions if (length := _code_lines(node)) > MOST_FUNCTION_LINES}
    assert not long


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    documented = ast.get_docstring(node) is not None
    first = node.body[0]
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return node.end_lineno - node.lineno + 1 - docstring


@pytest.mark.parametrize("name", NAMES)
def test_file_names_say_what_is_in_them(name: str) -> None:
    assert Path(name).stem not in FORBIDDEN_STEMS


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("__init__.py")])
def test_packages_hide_nothing_in_their_init(name: str) -> None:
    assert name in FILLED_INITS or not (ROOT / name).read_text()


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("__init__.py")])
def test_every_module_says_what_it_owns(name: str) -> None:
    assert ast.get_docstring(_tree(name))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_imports_a_test(name: str) -> None:
    assert "tests" not in _top_imports(name)
