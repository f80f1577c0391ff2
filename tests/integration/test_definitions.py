"""Definitions in the database: versions follow each other, none is lost, and a task keeps the one that it was made of."""

from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from psycopg.types.json import set_json_loads
from sqlalchemy import Engine

from schema.database import transaction
from schema.documents.specification import parse_submission
from schema.errors import InvalidArgument, InvalidGraph, NotFound
from schema.kinds import KindInfo
from schema.settings import Settings
from schema.transitions.definitions import NewDefinition, StoredVersion, delete_definition, put_definition
from schema.transitions.registrations import register_kinds
from taskserver.definitions import Resolved, resolve
from tests.factories import execute, many, one, together
from workers.definitions import register_definitions
from workers.registry import Registry

SUBTASK = {"key": "a", "kind": "builtin.noop"}
SETTINGS = Settings(_env_file=None)


def document(**members: Any) -> dict[str, Any]:
    return {"subtasks": [SUBTASK], **members}


def put(engine: Engine, name: str = "prepare", *, account: str = "0", **members: Any) -> StoredVersion:
    with transaction(engine) as connection:
        new = NewDefinition(account=account, name=name, document=document(**members), creator="tester")
        return put_definition(connection, new)


def delete(engine: Engine, name: str = "prepare") -> None:
    with transaction(engine) as connection:
        delete_definition(connection, "0", name)


def resolved(engine: Engine, *, account: str = "0", definition: str = "prepare", **members: Any) -> Resolved:
    with transaction(engine) as connection:
        return resolve(connection, parse_submission({"definition": definition, **members}), account)


class TestVersions:
    def test_a_change_makes_the_next_version_and_an_unchanged_document_none(self, engine: Engine) -> None:
        first = put(engine, concurrency=1, arguments={"a": 1, "b": [2.0]})
        same = put(engine, arguments={"b": [2], "a": 1}, concurrency=1)
        second = put(engine, concurrency=2)
        back = put(engine, concurrency=1, arguments={"a": 1, "b": [2]})

        assert (first.version, first.is_new) == (1, True)
        assert (same.id, same.version, same.is_new) == (first.id, 1, False)
        assert [(one.version, one.is_new) for one in (second, back)] == [(2, True), (3, True)]

    def test_each_account_and_name_counts_for_itself(self, engine: Engine) -> None:
        versions = [put(engine), put(engine, "other"), put(engine, account="1")]

        assert [one.version for one in versions] == [1, 1, 1]
        assert len({one.id for one in versions}) == 3

    def test_what_was_deleted_comes_back_as_the_next_version(self, engine: Engine) -> None:
        put(engine)
        delete(engine)

        assert (put(engine).version, put(engine).version) == (2, 2)

    def test_a_definition_is_deleted_once_and_whole(self, engine: Engine) -> None:
        put(engine)
        put(engine, concurrency=2)
        delete(engine)

        with pytest.raises(NotFound, match="'prepare' does not exist"):
            delete(engine)
        assert one(engine, "SELECT count(deleted_at) AS n FROM task_definitions")["n"] == 2

    def test_concurrent_changes_are_consecutive_and_none_is_lost(self, engine: Engine) -> None:
        stored = together(20, lambda number: put(engine, concurrency=number))

        assert sorted(one.version for one in stored) == list(range(1, 21))
        rows = many(engine, "SELECT version, document -> 'concurrency' AS n FROM task_definitions")
        assert {row["version"]: row["n"] for row in rows} == {one.version: number for number, one in enumerate(stored)}

    def test_concurrent_puts_of_one_document_make_one_version(self, engine: Engine) -> None:
        stored = together(20, lambda _: put(engine))

        assert {one.version for one in stored} == {1}
        assert sum(one.is_new for one in stored) == 1


class TestResolving:
    def test_the_newest_version_fills_the_submission(self, engine: Engine) -> None:
        put(engine, concurrency=1)
        newest = put(engine, concurrency=2, onDuplicate="return", queue="hosts", arguments={"port": 22, "host": "h"})

        found = resolved(engine, arguments={"host": "db"}, instanceId=1)

        given = found.submission
        assert found.definition_id == newest.id
        assert [(one.key, one.queue) for one in given.subtasks or ()] == [("a", "hosts")]
        assert (given.concurrency, given.on_duplicate, given.arguments) == (2, "return", {"port": 22, "host": "db"})
        assert given.definition == "prepare"

    def test_a_callers_own_psycopg_connection_will_do(self, engine: Engine) -> None:
        newest = put(engine, concurrency=2)
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)

        with psycopg.connect(url, row_factory=namedtuple_row) as connection:
            set_json_loads(bytes, connection)
            found = resolve(connection, parse_submission({"definition": "prepare"}), "0")

        assert (found.definition_id, found.submission.concurrency) == (newest.id, 2)

    def test_the_submission_and_the_subtask_come_first(self, engine: Engine) -> None:
        own, waiting = {**SUBTASK, "key": "b", "queue": "own"}, {"key": "c", "waitFor": "approval"}
        put(engine, subtasks=[SUBTASK, own, waiting], concurrency=2, onDuplicate="return", queue="hosts")

        given = resolved(engine, concurrency=0, onDuplicate="allow", instanceId=1).submission

        assert [one.queue for one in given.subtasks or ()] == ["hosts", "own", None]
        assert (given.concurrency, given.on_duplicate) == (0, "allow")

    def test_duplicates_are_not_told_without_an_instance(self, engine: Engine) -> None:
        put(engine, onDuplicate="queue")

        assert resolved(engine).submission.on_duplicate is None

    def test_a_submission_with_subtasks_is_left_as_it_is(self, engine: Engine) -> None:
        submission = parse_submission({"subtasks": [SUBTASK]})

        with transaction(engine) as connection:
            assert resolve(connection, submission, "0") == Resolved(submission, None)

    def test_an_unknown_definition_is_named_with_the_nearest(self, engine: Engine) -> None:
        put(engine, "prepare_host")
        put(engine, "prepare_hosts", account="theirs")

        with pytest.raises(InvalidGraph, match="'prepare_hosts' does not exist: did you mean 'prepare_host'") as caught:
            resolved(engine, definition="prepare_hosts")
        assert caught.value.target == "/definition"

    def test_a_deleted_definition_is_unknown(self, engine: Engine) -> None:
        put(engine)
        delete(engine)

        with pytest.raises(InvalidGraph, match="'prepare' does not exist: list the definitions"):
            resolved(engine)

    def test_a_definition_of_a_callback_alone_takes_no_submission(self, engine: Engine) -> None:
        put(engine, subtasks=None, callback={"url": "http://h"})

        with pytest.raises(InvalidGraph, match="has a callback and no subtasks"):
            resolved(engine)

    def test_a_document_that_this_version_cannot_read_is_told(self, engine: Engine) -> None:
        execute(engine, "INSERT INTO task_definitions (name, document) VALUES ('prepare', '{\"steps\": []}')")

        with pytest.raises(InvalidArgument, match=r"'prepare' cannot be used by this version: .*put it again"):
            resolved(engine)


class TestHandlerModules:
    @pytest.fixture
    def registry(self, engine: Engine) -> Registry:
        with transaction(engine) as connection:
            register_kinds(connection, [KindInfo("builtin.noop")], code_version="v")
        return Registry()

    def start(self, engine: Engine, registry: Registry, worker: str = "w1") -> None:
        with transaction(engine) as connection:
            register_definitions(connection, registry.definitions(), SETTINGS, creator=worker)

    def versions(self, engine: Engine) -> list[tuple[str, str, int, str]]:
        query = "SELECT account, name, version, created_by FROM task_definitions ORDER BY 1, 2, 3"
        return [tuple(row.values()) for row in many(engine, query)]

    def test_they_are_stored_when_a_worker_starts_and_not_again_when_unchanged(
        self, engine: Engine, registry: Registry
    ) -> None:
        registry.definition("prepare", subtasks=[SUBTASK])
        registry.definition("prepare", subtasks=[SUBTASK], account="ops")

        self.start(engine, registry)
        self.start(engine, registry, "w2")

        assert self.versions(engine) == [("0", "prepare", 1, "w1"), ("ops", "prepare", 1, "w1")]

    def test_the_same_document_put_over_http_is_no_change(self, engine: Engine, registry: Registry) -> None:
        put(engine, onDuplicate="return")
        registry.definition("prepare", subtasks=(SUBTASK,), on_duplicate="return")

        self.start(engine, registry)

        assert self.versions(engine) == [("0", "prepare", 1, "tester")]

    def test_a_wrong_one_stops_the_start_and_stores_nothing(self, engine: Engine, registry: Registry) -> None:
        registry.definition("a_good_one", subtasks=[SUBTASK])
        registry.definition("wrong", subtasks=[{"key": "a", "kind": "builtin.nop"}])

        with pytest.raises(InvalidGraph, match=r"'wrong' of .*test_definitions\.py:\d+.*did you mean 'builtin\.noop'"):
            self.start(engine, registry)
        assert self.versions(engine) == []

    def test_a_constant_argument_that_the_kind_does_not_take_stops_the_start_as_it_is_refused_in_a_put(
        self, engine: Engine, registry: Registry
    ) -> None:
        takes = {"type": "object", "properties": {"port": {"type": "integer"}}}
        with transaction(engine) as connection:
            register_kinds(connection, [KindInfo("host.check", takes)], code_version="v")
        registry.definition("wrong", subtasks=[{"key": "a", "kind": "host.check", "arguments": {"port": "ssh"}}])

        with pytest.raises(InvalidArgument, match=r"'wrong' of .*\.py:\d+.*/subtasks/0/arguments/port: ") as caught:
            self.start(engine, registry)
        assert caught.value.target == "/subtasks/0/arguments/port"
        assert self.versions(engine) == []

    def test_many_workers_may_start_at_once(self, engine: Engine, registry: Registry) -> None:
        for number in range(5):
            registry.definition(f"d{number}", subtasks=[SUBTASK])

        together(8, lambda number: self.start(engine, registry, f"w{number}"))

        assert [(name, version) for _, name, version, _ in self.versions(engine)] == [(f"d{n}", 1) for n in range(5)]
