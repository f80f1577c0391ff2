"""Kinds are registered once, strictly, and handler modules are loaded with errors that name them."""

import sys
from pathlib import Path

import pytest

import workers
from schema.errors import InvalidArgument
from schema.kinds import OnWorkerLost
from schema.states import Operation
from workers import Context
from workers.failures import UnknownKind
from workers.registry import Registry, load_handlers


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


def test_the_package_exports_what_handlers_import() -> None:
    assert workers.__all__ == ["Context", "definition", "subtask"]


def test_a_registered_function_is_still_called_as_a_function(registry: Registry) -> None:
    @registry.subtask("host.check")
    def check(ctx: Context, host: str, port: int = 22) -> str:
        return f"{host}:{port}"

    assert check(Context(), "db") == "db:22"


def test_a_kind_is_described_with_its_options_and_first_docstring_line(registry: Registry) -> None:
    @registry.subtask(
        "host.check",
        timeout=30,
        max_attempts=3,
        backoff=2.0,
        queue="hosts",
        isolated=True,
        on_worker_lost="fail",
        prohibit_rollback=True,
    )
    def check(host: str) -> None:
        """Check a host.

        And more.
        """

    (info,) = registry.kinds()

    assert (info.name, info.queue, info.timeout, info.max_attempts) == ("host.check", "hosts", 30, 3)
    assert (info.backoff_seconds, info.isolated, info.prohibit_rollback) == (2.0, True, True)
    assert (info.on_worker_lost, info.has_rollback) == (OnWorkerLost.FAIL, False)
    assert info.description == "Check a host."


@pytest.mark.parametrize(
    "kind", ["", "Host.check", "host..check", ".host", "host.", "host check", "1host", "hóst", "a" * 201]
)
def test_a_kind_is_dotted_lower_case_words(registry: Registry, kind: str) -> None:
    with pytest.raises(InvalidArgument, match=r"lower-case words"):
        registry.subtask(kind)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"backoff": -1}, "backoff"),
        ({"queue": " "}, "queue"),
        ({"on_worker_lost": "ignore"}, "on_worker_lost"),
        ({"retry_on": [ValueError, "KeyError"]}, "retry_on"),
        ({"do_not_retry_on": int}, "do_not_retry_on"),
    ],
)
def test_a_wrong_option_is_refused_naming_kind_and_option(
    registry: Registry, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"'a.b'.*{message}"):
        registry.subtask("a.b", **options)  # type: ignore[arg-type]


def test_a_kind_registered_twice_is_refused_with_both_places(registry: Registry) -> None:
    @registry.subtask("host.check")
    def first() -> None: ...

    with pytest.raises(InvalidArgument, match=r"first.*test_registry\.py:\d+.*second.*test_registry\.py:\d+"):

        @registry.subtask("host.check")
        def second() -> None: ...


def test_only_plain_functions_become_handlers(registry: Registry) -> None:
    with pytest.raises(InvalidArgument, match=r"not a plain function"):
        registry.subtask("a.b")(dict)


def test_an_unknown_kind_says_what_to_set(registry: Registry) -> None:
    with pytest.raises(UnknownKind, match=r"'no.such'.*TASKSERVER_HANDLERS"):
        registry.find("no.such")


def test_a_rollback_gets_those_arguments_that_it_names(registry: Registry) -> None:
    @registry.subtask("host.check")
    def check(host: str, port: int) -> None: ...

    @check.rollback
    def undo(ctx: Context, host: str) -> str:
        return f"undone {host}"

    arguments = check.arguments_for(Operation.ROLLBACK, {"host": "db", "port": 22})
    binding = check.binding_for(Operation.ROLLBACK)

    assert binding is not None
    assert binding.run(Context(), arguments).value == "undone db"
    assert undo(Context(), "x") == "undone x"
    assert check.info.has_rollback


def test_without_a_rollback_nothing_runs_under_that_operation(registry: Registry) -> None:
    @registry.subtask("host.check")
    def check(host: str) -> None: ...

    assert check.binding_for(Operation.ROLLBACK) is None
    assert check.binding_for(Operation.RETRY) is check.binding


def test_a_rollback_that_needs_an_argument_the_kind_does_not_take_is_refused(registry: Registry) -> None:
    @registry.subtask("a.b")
    def run() -> None: ...

    with pytest.raises(InvalidArgument, match=r"needs path"):

        @run.rollback
        def undo(path: str) -> None: ...


def test_a_second_rollback_is_refused(registry: Registry) -> None:
    @registry.subtask("a.b")
    def run() -> None: ...

    run.rollback(lambda: None)

    with pytest.raises(InvalidArgument, match=r"rollback already"):
        run.rollback(lambda: None)


def test_the_built_in_kinds_are_always_loaded() -> None:
    names = {kind.name for kind in load_handlers([]).kinds()}

    assert names >= {"builtin.noop", "builtin.echo", "builtin.sleep", "builtin.fail", "builtin.log", "http.callback"}


def test_a_module_is_loaded_by_name(modules: Path) -> None:
    source = "from workers import subtask\n@subtask('loaded.by_name')\ndef run(): ...\n"
    (modules / "handlers_by_name.py").write_text(source)

    assert load_handlers(["handlers_by_name"]).find("loaded.by_name").kind == "loaded.by_name"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_thing", "'handlers_broken_0' cannot be imported: ModuleNotFoundError.*no_such_thing"),
        ("1 / 0", "'handlers_broken_1' cannot be imported: ZeroDivisionError"),
        ("raise SystemExit(3)", "'handlers_broken_2' cannot be imported: SystemExit"),
        ("from workers import subtask\n@subtask('BAD')\ndef run(): ...", "'handlers_broken_3': kind 'BAD'"),
    ],
)
def test_a_module_that_fails_is_named_with_the_cause(
    modules: Path, source: str, message: str, request: pytest.FixtureRequest
) -> None:
    name = message.split("'")[1]
    (modules / f"{name}.py").write_text(source)

    with pytest.raises(InvalidArgument, match=message):
        load_handlers([name])


@pytest.mark.parametrize("name", ["no_such_handlers", "no_such_package.handlers"])
def test_a_module_that_is_not_there_says_where_to_look(name: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"'{name}' is not found: check TASKSERVER_HANDLERS"):
        load_handlers([name])


@pytest.mark.parametrize("name", ["json", "handlers_without_any", "handlers_directory"])
def test_a_module_that_registers_nothing_is_named_with_its_file(modules: Path, name: str) -> None:
    (modules / "handlers_without_any.py").write_text("x = 1")
    (modules / "handlers_directory").mkdir()

    with pytest.raises(InvalidArgument, match=rf"'{name}' \(/.*{name}.*\) registers nothing"):
        load_handlers([name])


def test_a_module_built_into_python_registers_nothing() -> None:
    with pytest.raises(InvalidArgument, match=r"'time' \(built into Python\) registers nothing"):
        load_handlers(["time"])


def test_a_module_that_another_one_has_imported_may_be_named_too(modules: Path) -> None:
    source = "from workers import subtask\n@subtask('loaded.below')\ndef run(): ...\n"
    (modules / "handlers_below.py").write_text(source)
    (modules / "handlers_between.py").write_text("import handlers_below")
    (modules / "handlers_above.py").write_text("import handlers_between")
    named = ["handlers_above", "handlers_between", "handlers_below"]

    first, again = load_handlers(named), load_handlers(["handlers_below"])

    assert first.find("loaded.below") is again.find("loaded.below")


def test_the_current_directory_is_looked_at_first_for_handlers_and_last_afterwards(
    modules: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    (modules / "handlers_of_that_name.py").write_text("raise SystemError('the wrong one')")
    source = "from workers import subtask\n@subtask('loaded.from_here')\ndef run(): ...\n"
    (here / "handlers_of_that_name.py").write_text(source)
    monkeypatch.chdir(here)
    before = list(sys.path)

    registry = load_handlers(["handlers_of_that_name"])

    assert registry.find("loaded.from_here").kind == "loaded.from_here"
    assert sys.path == [*before, str(here)]
