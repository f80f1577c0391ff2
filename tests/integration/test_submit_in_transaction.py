"""`taskserver.submission.submit`: a task stored in a transaction of the caller's, on a connection of the caller's."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import kwargs_row, namedtuple_row, scalar_row, tuple_row
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session

from schema import callers_transaction
from schema.database import transaction
from schema.errors import (
    Busy,
    DuplicateInstance,
    IdempotencyKeyReused,
    InvalidArgument,
    InvalidGraph,
    TooLarge,
    Unavailable,
)
from schema.kinds import KindInfo
from schema.limits import Limits
from schema.transitions import progress
from schema.transitions.registrations import register_kinds
from taskserver.submission import submit
from tests.factories import execute, many, one
from tests.invariants import assert_invariants

SPEC = {
    "name": "n",
    "subtasks": [{"key": "a", "kind": "test.kind"}, {"key": "b", "kind": "test.kind", "upstreams": ["a"]}],
}
UNKNOWN_KIND = {"subtasks": [{"key": "a", "kind": "test.unknown"}]}
Raw = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def _promises_hold(engine: Engine) -> Iterator[None]:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
        connection.execute(text("CREATE TABLE hosts (name text)"))
    yield
    assert_invariants(engine)


@pytest.fixture
def conninfo(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def raw(conninfo: str) -> Iterator[Raw]:
    with psycopg.connect(conninfo) as connection:
        yield connection


def stored(engine: Engine) -> list[int]:
    return [row["id"] for row in many(engine, "SELECT id FROM tasks ORDER BY id")]


def hosts(engine: Engine) -> list[str]:
    return [row["name"] for row in many(engine, "SELECT name FROM hosts")]


class TestSqlalchemy:
    def test_it_is_committed_with_what_the_caller_did(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO hosts VALUES ('db1')"))
            task = submit(connection, SPEC, account="7", user="inventory")

        assert (stored(engine), hosts(engine)) == ([task], ["db1"])
        row = one(engine, "SELECT account, creator, name, state FROM tasks")
        assert tuple(row.values()) == ("7", "inventory", "n", "CREATED")

    def test_it_is_rolled_back_with_what_the_caller_did(self, engine: Engine) -> None:
        with engine.connect() as connection, connection.begin() as begun:
            connection.execute(text("INSERT INTO hosts VALUES ('db1')"))
            submit(connection, SPEC)
            begun.rollback()

        assert (stored(engine), hosts(engine)) == ([], [])

    def test_as_the_first_statement_of_a_connection_it_begins_the_transaction(self, engine: Engine) -> None:
        with engine.connect() as connection:
            first = submit(connection, SPEC)
            connection.commit()
            submit(connection, SPEC)
            connection.rollback()

        assert stored(engine) == [first]

    def test_a_session_of_the_orm_is_taken(self, engine: Engine) -> None:
        with Session(engine) as session:
            task = submit(session, SPEC)
            session.commit()
            submit(session, SPEC)
            session.rollback()

        assert stored(engine) == [task]

    def test_in_a_nested_transaction_it_goes_with_that(self, engine: Engine) -> None:
        with engine.begin() as connection:
            outer = submit(connection, SPEC)
            nested = connection.begin_nested()
            submit(connection, SPEC)
            nested.rollback()

        assert stored(engine) == [outer]

    def test_a_connection_that_commits_each_statement_is_refused(self, engine: Engine) -> None:
        with (
            engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
            pytest.raises(InvalidArgument, match="stored in pieces: begin a transaction"),
        ):
            submit(connection, SPEC)

        assert stored(engine) == []

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_any_isolation_will_do(self, engine: Engine, level: Any) -> None:
        with engine.connect().execution_options(isolation_level=level) as connection:
            task = submit(connection, SPEC | {"instanceId": 1})
            behind = submit(connection, SPEC | {"instanceId": 1, "onDuplicate": "queue"})
            connection.commit()

        assert stored(engine) == [task, behind]

    def test_a_driver_that_is_wrapped_will_do(self, conninfo: str, engine: Engine) -> None:
        wrapped = create_engine(
            engine.url,
            creator=lambda: _Wrapped(psycopg.connect(conninfo)),
            use_native_hstore=False,
            native_inet_types=False,
        )
        with wrapped.connect() as connection:
            assert not isinstance(connection.connection.driver_connection, psycopg.Connection)
            task = submit(connection, SPEC | {"instanceId": 1}, idempotency_key="k")
            with pytest.raises(DuplicateInstance):
                submit(connection, SPEC | {"instanceId": 1})
            connection.commit()
        wrapped.dispose()

        assert stored(engine) == [task]


class _Wrapped:
    """A connection behind a proxy, as libraries for tracing make one."""

    def __init__(self, inner: Raw) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["inner"], name, value)


class TestPsycopg:
    def test_it_is_committed_with_what_the_caller_did(self, engine: Engine, raw: Raw) -> None:
        raw.execute("INSERT INTO hosts VALUES ('db1')")
        task = submit(raw, SPEC)
        assert stored(engine) == []
        raw.commit()

        assert (stored(engine), hosts(engine)) == ([task], ["db1"])

    def test_as_the_first_statement_it_begins_the_transaction(self, engine: Engine, raw: Raw) -> None:
        submit(raw, SPEC)
        raw.rollback()

        assert stored(engine) == []

    def test_in_a_transaction_block_it_goes_with_that(self, engine: Engine, raw: Raw) -> None:
        with raw.transaction():
            task = submit(raw, SPEC)
            with raw.transaction() as nested:
                submit(raw, SPEC)
                raise psycopg.Rollback(nested)

        assert stored(engine) == [task]

    def test_without_a_transaction_block_autocommit_is_refused(self, engine: Engine, conninfo: str) -> None:
        with psycopg.connect(conninfo, autocommit=True) as raw:
            with pytest.raises(InvalidArgument, match=r"with connection\.transaction\(\)"):
                submit(raw, SPEC)
            with raw.pipeline(), pytest.raises(InvalidArgument, match="in pieces"):
                submit(raw, SPEC)
            with raw.transaction():
                first = submit(raw, SPEC)
            with raw.pipeline(), raw.transaction():
                second = submit(raw, SPEC)

        assert stored(engine) == [first, second]

    def test_a_closed_connection_is_refused(self, raw: Raw) -> None:
        raw.close()

        with pytest.raises(InvalidArgument, match="is closed"):
            submit(raw, SPEC)

    def test_a_dispatcher_is_woken_when_the_caller_commits(self, engine: Engine, raw: Raw) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
            listener.exec_driver_sql(f"LISTEN {progress.STARTABLE_CHANNEL}")
            driver: Any = listener.connection.driver_connection

            task = submit(raw, SPEC)
            assert list(driver.notifies(timeout=0.05)) == []
            raw.commit()

            assert [one.payload for one in driver.notifies(timeout=5, stop_after=1)] == [str(task)]


def _rows(factory: Any) -> Callable[[Raw], None]:
    return lambda raw: setattr(raw, "row_factory", factory)


def _cursors(factory: Any) -> Callable[[Raw], None]:
    return lambda raw: setattr(raw, "cursor_factory", factory)


def _prepares(threshold: int | None) -> Callable[[Raw], None]:
    return lambda raw: setattr(raw, "prepare_threshold", threshold)


def _runs(statement: Any) -> Callable[[Raw], None]:
    return lambda raw: raw.execute(statement) and None


HABITS: Mapping[str, Callable[[Raw], None]] = {
    "rows are tuples": _rows(tuple_row),
    "rows are named tuples": _rows(namedtuple_row),
    "rows are scalars": _rows(scalar_row),
    "rows are objects": _rows(kwargs_row(dict)),
    "values are bound by the client": _cursors(psycopg.ClientCursor),
    "placeholders are numbered": _cursors(psycopg.RawCursor),
    "nothing is prepared": _prepares(None),
    "all is prepared": _prepares(0),
    "another path": _runs("SET search_path = app"),
    "a local path": _runs("SET LOCAL search_path = app, public"),
    "no path": _runs("SET search_path = ''"),
    "tables of the same names": _runs("SET search_path = app, public"),
    "temporary tables of the same names": _runs("CREATE TEMP TABLE tasks (x int)"),
    "another time zone": _runs("SET timezone = 'Asia/Tokyo'"),
    "another encoding": _runs("SET client_encoding = 'LATIN1'"),
}


@pytest.mark.parametrize("habit", HABITS)
def test_what_the_caller_has_set_neither_matters_nor_changes(engine: Engine, raw: Raw, habit: str) -> None:
    execute(engine, "CREATE SCHEMA app")
    execute(engine, "CREATE TABLE app.tasks (mine text)")
    HABITS[habit](raw)
    path = _path(raw)

    for number in range(3):
        submit(raw, SPEC | {"name": f"Größe {number} 测试", "instanceId": number}, user="Jürgen")
        with pytest.raises(DuplicateInstance):
            submit(raw, SPEC | {"instanceId": number})
    assert _path(raw) == path
    raw.commit()

    assert [row["name"] for row in many(engine, "SELECT name FROM tasks")] == [f"Größe {n} 测试" for n in range(3)]
    assert many(engine, "SELECT * FROM app.tasks") == []
    execute(engine, "DROP SCHEMA app CASCADE")


def _path(raw: Raw) -> Any:
    with psycopg.Cursor(raw, row_factory=tuple_row) as cursor:
        return cursor.execute("SHOW search_path").fetchone()


def test_a_pipeline_of_the_caller_goes_on(engine: Engine, raw: Raw) -> None:
    with raw.pipeline():
        before = raw.execute("INSERT INTO hosts VALUES ('before') RETURNING name")
        task = submit(raw, SPEC | {"instanceId": 1})
        with pytest.raises(DuplicateInstance):
            submit(raw, SPEC | {"instanceId": 1})
        after = raw.execute("INSERT INTO hosts VALUES ('after') RETURNING name")
        assert (before.fetchone(), after.fetchone()) == (("before",), ("after",))
    raw.commit()

    assert (stored(engine), hosts(engine)) == ([task], ["before", "after"])


@contextmanager
def _by_sqlalchemy(engine: Engine) -> Iterator[tuple[Connection, Callable[[str], object]]]:
    with engine.connect() as connection:
        yield connection, lambda statement: connection.execute(text(statement))


@contextmanager
def _by_psycopg(engine: Engine) -> Iterator[tuple[Raw, Callable[[Any], object]]]:
    with psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(hide_password=False)) as raw:
        yield raw, raw.execute


Opened = Callable[[Engine], AbstractContextManager[tuple[Any, Callable[[str], object]]]]


def _lock_timeout(run: Callable[[str], Any]) -> Any:
    [[value]] = run("SHOW lock_timeout")
    return value


@pytest.mark.parametrize("opened", [_by_sqlalchemy, _by_psycopg])
class TestRefused:
    @pytest.mark.parametrize(
        ("spec", "error"),
        [
            ({}, InvalidArgument),
            (UNKNOWN_KIND, InvalidGraph),
            (SPEC | {"definition": "d"}, InvalidArgument),
            ({"definition": "unknown"}, InvalidGraph),
            (SPEC | {"instanceId": 1}, DuplicateInstance),
            (SPEC | {"extra": "x" * 300_000}, InvalidArgument),
        ],
    )
    def test_nothing_is_stored_and_the_transaction_goes_on(
        self, engine: Engine, opened: Opened, spec: Mapping[str, Any], error: type[Exception]
    ) -> None:
        with transaction(engine) as connection:
            holder = submit(connection, SPEC | {"instanceId": 1})

        with opened(engine) as (connection, run):
            run("INSERT INTO hosts VALUES ('before')")
            with pytest.raises(error):
                submit(connection, spec, idempotency_key="k")
            run("INSERT INTO hosts VALUES ('after')")
            other = submit(connection, SPEC, idempotency_key="k")
            connection.commit()

        assert (stored(engine), hosts(engine)) == ([holder, other], ["before", "after"])

    def test_a_lock_that_is_waited_for_too_long_leaves_the_transaction_usable(
        self, engine: Engine, opened: Opened
    ) -> None:
        with engine.connect() as holding, opened(engine) as (connection, run):
            submit(holding, SPEC | {"instanceId": 1})
            run("INSERT INTO hosts VALUES ('before')")
            run("SET LOCAL lock_timeout = '50ms'")
            with pytest.raises(Busy):
                submit(connection, SPEC | {"instanceId": 1})
            task = submit(connection, SPEC | {"instanceId": 2})
            connection.commit()

        assert (stored(engine), hosts(engine)) == ([task], ["before"])

    @pytest.mark.parametrize("theirs", ["0", "1h"])
    def test_whoever_is_in_the_way_is_waited_for_a_while_only(
        self, engine: Engine, opened: Opened, theirs: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(callers_transaction, "MOST_WAITING", "50ms")
        with engine.connect() as holding, opened(engine) as (connection, run):
            submit(holding, SPEC, idempotency_key="k")
            run(f"SET LOCAL lock_timeout = '{theirs}'")
            with pytest.raises(Busy, match="in the way"):
                submit(connection, SPEC, idempotency_key="k")
            assert _lock_timeout(run) == theirs
            submit(connection, SPEC, idempotency_key="l")
            assert _lock_timeout(run) == theirs

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    @pytest.mark.parametrize("held", [(SPEC | {"instanceId": 1}, None), (SPEC, "k")])
    def test_what_the_isolation_hides_needs_a_new_transaction(
        self, engine: Engine, opened: Opened, level: str, held: tuple[Mapping[str, Any], str | None]
    ) -> None:
        spec, key = held
        with opened(engine) as (connection, run):
            run(f"SET TRANSACTION ISOLATION LEVEL {level}")
            run("INSERT INTO hosts VALUES ('before')")
            with transaction(engine) as other:
                task = submit(other, spec, idempotency_key=key)
            with pytest.raises(Busy, match="roll this transaction back, begin a new one"):
                submit(connection, spec, idempotency_key=key)
            connection.rollback()
            if key is None:
                with pytest.raises(DuplicateInstance):
                    submit(connection, spec)
            else:
                assert submit(connection, spec, idempotency_key=key) == task

    def test_another_database_is_told(self, opened: Opened, engine: Engine) -> None:
        other = create_engine(engine.url.set(database="postgres"))
        with opened(other) as (connection, _), pytest.raises(InvalidArgument, match="without the tables of taskserver"):
            submit(connection, SPEC)
        other.dispose()

    def test_a_connection_that_is_gone_is_told_as_such(self, opened: Opened, engine: Engine) -> None:
        with opened(engine) as (connection, run):
            run("SELECT 1")
            execute(
                engine, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            )

            with pytest.raises(Unavailable, match="does not answer"):
                submit(connection, SPEC)
            connection.close()


def test_the_same_idempotency_key_leads_to_the_same_task(engine: Engine, raw: Raw) -> None:
    with engine.begin() as connection:
        task = submit(connection, SPEC, idempotency_key="k")
    again = submit(raw, dict(reversed(SPEC.items())), idempotency_key="k")
    other = submit(raw, SPEC, account="7", idempotency_key="k")
    with pytest.raises(IdempotencyKeyReused):
        submit(raw, SPEC | {"priority": 1}, idempotency_key="k")
    raw.commit()

    assert again == task
    assert stored(engine) == [task, other]


def test_a_spec_that_is_too_large_is_refused(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(TooLarge, match="TASKSERVER_MAX_SUBMISSION_BYTES"):
        submit(connection, SPEC, limits=Limits(submission_bytes=50))


@pytest.mark.parametrize("spec", [None, "text", [1], 7])
def test_what_is_no_document_is_refused(engine: Engine, spec: Any) -> None:
    with engine.connect() as connection, pytest.raises(InvalidArgument):
        submit(connection, spec)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", 7, None])
@pytest.mark.parametrize("what", ["account", "user"])
def test_what_is_no_name_is_refused(engine: Engine, what: str, name: Any) -> None:
    with engine.connect() as connection, pytest.raises(InvalidArgument, match=f"^{what} .* is none: "):
        submit(connection, SPEC, **{what: name})


@pytest.mark.parametrize("account", ["a b", "ä", "a" * 129, "b" * 9_000, "a\n"])
def test_an_account_is_spelled_as_that_of_a_principal(engine: Engine, account: str) -> None:
    with (
        engine.connect() as connection,
        pytest.raises(InvalidArgument, match=r"^account .* is none: use 1 to 128") as caught,
    ):
        submit(connection, SPEC | {"instanceId": 1}, account=account, idempotency_key="k")

    assert len(caught.value.message) < 200


def test_a_user_has_at_most_128_characters(engine: Engine) -> None:
    with engine.begin() as connection:
        submit(connection, SPEC, user="ü" * 128)
        with pytest.raises(InvalidArgument, match=r"^user 'üü.* is none: .*1 to 128 characters") as caught:
            submit(connection, SPEC, user="ü" * 9_000)

    assert len(caught.value.message) < 400
    assert one(engine, "SELECT creator FROM tasks")["creator"] == "ü" * 128


@pytest.mark.parametrize("key", [7, b"k", ["k"], "", " k", "k ", "ü"])
def test_what_is_no_idempotency_key_is_refused(engine: Engine, key: Any) -> None:
    with engine.connect() as connection, pytest.raises(InvalidArgument, match="idempotency key") as caught:
        submit(connection, SPEC, idempotency_key=key)

    assert caught.value.target == "Idempotency-Key"


@pytest.mark.parametrize("connection", [None, "postgresql://host/database", object(), 7])
def test_what_is_no_connection_is_refused(connection: object) -> None:
    with pytest.raises(TypeError, match=r"SQLAlchemy Connection or Session on PostgreSQL, or a psycopg\.Connection"):
        submit(connection, SPEC)


def test_an_engine_a_cursor_and_another_database_system_are_refused(engine: Engine, raw: Raw) -> None:
    with pytest.raises(TypeError, match="Engine is no connection"):
        submit(engine, SPEC)
    with pytest.raises(TypeError, match="Cursor is no connection"):
        submit(raw.cursor(), SPEC)
    lite = create_engine("sqlite://")
    with lite.connect() as connection, pytest.raises(TypeError, match="leads to sqlite"):
        submit(connection, SPEC)
    lite.dispose()


def test_an_asynchronous_connection_is_refused_with_what_to_do() -> None:
    class AsyncConnection:
        """Looks as SQLAlchemy's does: its own class needs greenlet, which the product does not."""

        async def run_sync(self) -> None:
            """Nothing is run."""

    with pytest.raises(TypeError, match=r"await connection\.run_sync\(submit, spec\)"):
        submit(AsyncConnection(), SPEC)
