"""Definitions in handler modules: held once, as JSON, and checked with words that lead to the line."""

import re
from typing import Any

import pytest

from schema.errors import InvalidArgument, InvalidGraph
from schema.kinds import KindInfo
from schema.settings import Settings
from workers.registry import Registry

SUBTASKS = [{"key": "a", "kind": "builtin.noop", "upstreams": ()}]
TAKES_PORT = {"type": "object", "properties": {"port": {"type": "integer"}}}
KINDS = {"builtin.noop": KindInfo("builtin.noop"), "host.check": KindInfo("host.check", TAKES_PORT)}
SETTINGS = Settings(_env_file=None)


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_the_whole_document_and_its_members_are_the_same_definition(registry: Registry) -> None:
    registry.definition("whole", {"subtasks": SUBTASKS, "onDuplicate": "queue", "redact": ["password"]})
    registry.definition("members", subtasks=SUBTASKS, on_duplicate="queue", redact=("password",))

    members, whole = registry.definitions()

    assert members.document == whole.document
    assert whole.document["subtasks"] == [{"key": "a", "kind": "builtin.noop", "upstreams": []}]


def test_definitions_are_told_by_account_and_name(registry: Registry) -> None:
    for account, name in (("b", "x"), ("a", "y"), ("a", "x")):
        registry.definition(name, subtasks=SUBTASKS, account=account)

    assert [(one.account, one.name) for one in registry.definitions()] == [("a", "x"), ("a", "y"), ("b", "x")]


def test_a_definition_held_twice_is_refused_with_both_places(registry: Registry) -> None:
    registry.definition("twice", subtasks=SUBTASKS)

    with pytest.raises(
        InvalidArgument, match=r"'twice'.*test_held_definitions\.py:\d+.*test_held_definitions\.py:\d+.*rename"
    ):
        registry.definition("twice", subtasks=SUBTASKS)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("a b",), {"subtasks": SUBTASKS}, "is not a key"),
        (("inline",), {"subtasks": SUBTASKS}, "choose another name"),
        (("x",), {"subtasks": SUBTASKS, "account": "a b"}, "account 'a b'"),
        (("x", {"subtasks": SUBTASKS}), {"queue": "q"}, "not both"),
        (("x",), {"arguments": {"when": object()}}, "is not JSON"),
    ],
)
def test_what_is_no_definition_is_refused_where_it_stands(
    registry: Registry, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"test_held_definitions\.py:\d+.*{message}"):
        registry.definition(*arguments, **options)

    assert registry.definitions() == []


def test_a_wrong_document_is_told_with_definition_module_line_and_place(registry: Registry) -> None:
    registry.definition("wrong", subtasks=[*SUBTASKS, {"key": "b", "kind": "builtin.nop"}])
    (held,) = registry.definitions()

    with pytest.raises(InvalidGraph) as caught:
        held.check(SETTINGS, KINDS)

    assert re.search(
        r"definition 'wrong' of \S*test_held_definitions \(.*test_held_definitions\.py:\d+\): /subtasks/1/kind: .*"
        r"'builtin\.nop'.*did you mean 'builtin\.noop'",
        caught.value.message,
    )
    assert caught.value.target == "/subtasks/1/kind"


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"kind": "host.check", "arguments": {"port": "ssh"}}, "/subtasks/0/arguments/port"),
        ({"kind": "builtin.noop", "arguments": {"password": "hunter2"}}, "/subtasks/0/arguments/password"),
    ],
)
def test_what_a_put_would_refuse_in_arguments_is_refused_in_a_module(
    registry: Registry, members: dict[str, Any], place: str
) -> None:
    registry.definition("wrong", subtasks=[{"key": "a", **members}], redact=["password"])
    (held,) = registry.definitions()

    with pytest.raises(InvalidArgument, match=rf"'wrong' of .*test_held_definitions\.py:\d+\): {place}: ") as caught:
        held.check(SETTINGS, KINDS)
    assert caught.value.target == place
    assert "hunter2" not in caught.value.message


def test_a_misspelt_member_is_told_with_the_one_that_is_meant(registry: Registry) -> None:
    registry.definition("wrong", subtasks=SUBTASKS, on_duplicates="queue")  # type: ignore[call-arg]
    (held,) = registry.definitions()

    with pytest.raises(InvalidArgument, match="did you mean onDuplicate"):
        held.check(SETTINGS, KINDS)


def test_a_callback_is_checked_against_the_workers_own_allow_list(registry: Registry) -> None:
    registry.definition("hook", callback={"url": "https://hooks.example.org", "path": "/x"})
    (held,) = registry.definitions()

    held.check(Settings(_env_file=None, callback_hosts=("hooks.example.org",)), KINDS)
    with pytest.raises(InvalidArgument, match=r"hooks\.example\.org:443.*TASKSERVER_CALLBACK_HOSTS"):
        held.check(SETTINGS, KINDS)
