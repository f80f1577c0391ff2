"""The definition document: what is taken, what is refused, and how it is told."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.callback_hosts import CallbackHosts
from schema.documents.definition import Definition, check_name, parse_definition
from schema.errors import Invalid, InvalidArgument, InvalidGraph, SubError, TooLarge
from schema.kinds import KindInfo
from schema.limits import Limits
from tests.unit.test_specification import json_values

HOSTS = CallbackHosts.parse(["hooks.example.org"])


def subtask(key: str, *upstreams: str, **fields: Any) -> dict[str, Any]:
    return {"key": key, "kind": "builtin.noop", "upstreams": list(upstreams), **fields}


def kinds(*names: str) -> dict[str, KindInfo]:
    return {name: KindInfo(name) for name in names}


def document(**fields: Any) -> dict[str, Any]:
    return {"subtasks": [subtask("a")], **fields}


def refusal(given: object, **options: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_definition(given, **options)
    return caught.value


def only_problem(given: object, **options: Any) -> SubError:
    (problem,) = refusal(given, **options).sub_errors
    return problem


def test_a_whole_document_is_taken() -> None:
    definition = parse_definition(
        {
            "description": "prepares a host",
            "arguments": {"port": 22},
            "subtasks": [
                subtask("check", arguments={"host": {"$arg": "/host"}, "port": {"$arg": "/port"}}),
                subtask("mount", "check", foreach={"$arg": "/disks"}, arguments={"disk": {"$item": ""}}),
                subtask("report", "mount", arguments={"mounts": {"$from": "mount"}}),
            ],
            "queue": "hosts",
            "callback": {"url": "https://hooks.example.org", "path": "/done?x=1", "retry": 3, "timeoutSeconds": 10},
            "concurrency": 10,
            "onDuplicate": "queue",
            "redact": ["password"],
        },
        kinds=kinds("builtin.noop"),
        callback_hosts=HOSTS,
    )

    assert [one.key for one in definition.subtasks or ()] == ["check", "mount", "report"]
    assert (definition.queue, definition.concurrency, definition.on_duplicate) == ("hosts", 10, "queue")
    assert definition.redact == ("password",)
    assert definition.callback is not None
    assert (definition.callback.path, definition.callback.timeout_seconds) == ("/done?x=1", 10)


def test_a_callback_alone_is_a_definition() -> None:
    definition = parse_definition({"callback": {"url": "http://hooks.example.org:8080", "path": "/task"}})

    assert definition.subtasks is None


def test_neither_subtasks_nor_callback_is_refused() -> None:
    assert refusal({}).message == "the definition: needs subtasks or a callback: add one of them"


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        (document(concurency=1), "/concurency", "did you mean concurrency?"),
        (document(instanceId=1), "/instanceId", "is not a field here"),
        (document(callback={"path": "/x"}), "/callback/url", "is required"),
        (document(callback={"url": "ftp://h"}), "/callback/url", "give http:// or https://"),
        (document(callback={"url": "http://u:p@h"}), "/callback/url", "user or password"),
        (document(callback={"url": "http://h?a=1"}), "/callback/url", "query or fragment"),
        (document(callback={"url": "http://h", "path": "x"}), "/callback/path", "must begin with '/'"),
        (document(callback={"url": "http://h", "retry": -1}), "/callback/retry", "at least 0"),
        (document(callback={"url": "http://h", "retries": 1}), "/callback/retries", "did you mean retry?"),
        (document(redact=[""]), "/redact/0", "must not be empty"),
        (document(redact="password"), "/redact", "must be an array"),
        (document(arguments={"x": "\x00"}), "/arguments/x", "NUL"),
        (document(onDuplicate="wait"), "/onDuplicate", "must be one of"),
        ({"subtasks": [subtask("a", mode="serial")]}, "/subtasks/0/mode", "only with foreach"),
        ([], "", "must be an object"),
    ],
)
def test_a_wrong_field_is_named_by_its_place(given: object, field: str, message: str) -> None:
    problem = only_problem(given)

    assert problem.field == field
    assert message in problem.message


@pytest.mark.parametrize(
    ("subtasks", "field", "message"),
    [
        ([], "/subtasks", "has no subtasks"),
        ([subtask("a", "b"), subtask("b", "a")], "/subtasks/0", "a → b → a"),
        ([subtask("a"), subtask("a")], "/subtasks/0", "used twice"),
        ([subtask("a", "A")], "/subtasks/0", "no subtask of this task"),
        ([subtask("a", arguments={"x": {"$from": "b"}}), subtask("b")], "/subtasks/0/arguments/x", "not upstream"),
        ([subtask("a", arguments={"x": {"$item": ""}})], "/subtasks/0/arguments/x", "outside a foreach"),
        ([subtask("a", arguments={"x": {"$args": "/y"}})], "/subtasks/0/arguments/x", "'$args'"),
    ],
)
def test_a_wrong_graph_or_reference_is_named_by_its_place(
    subtasks: list[dict[str, Any]], field: str, message: str
) -> None:
    error = refusal({"subtasks": subtasks})

    assert isinstance(error, InvalidGraph)
    assert error.sub_errors[0].field == field
    assert message in error.message


def test_an_unknown_kind_is_named_with_the_nearest_only_where_kinds_are_given() -> None:
    given = {"subtasks": [subtask("a", kind="builtin.nop")]}

    error = refusal(given, kinds=kinds("builtin.noop", "host.check"))

    assert isinstance(error, InvalidGraph)
    assert error.target == "/subtasks/0/kind"
    assert "'builtin.nop'" in error.message
    assert "did you mean 'builtin.noop'?" in error.message
    assert parse_definition(given).subtasks


def test_a_callback_outside_the_allow_list_is_refused_where_there_is_a_list() -> None:
    given = {"callback": {"url": "https://elsewhere.example.org", "path": "/x"}}

    problem = only_problem(given, callback_hosts=HOSTS)

    assert problem.field == "/callback/url"
    assert "elsewhere.example.org:443" in problem.message
    assert parse_definition(given).callback


def test_a_default_that_is_to_be_hidden_is_refused_because_viewers_read_definitions() -> None:
    problem = only_problem(document(arguments={"db": {"password": "hunter2"}}, redact=["password"]))

    assert problem.field == "/arguments/db/password"
    assert "hunter2" not in str(problem)
    assert parse_definition(document(arguments={"password": None}, redact=["password"])).arguments == {"password": None}


HIDDEN = ["password", "token"]


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"arguments": {"password": "hunter2"}}, "/arguments/password"),
        ({"arguments": {"db": [{"token": 5}]}}, "/arguments/db/0/token"),
        ({"arguments": {"password": {"a": {"$arg": "/x"}, "b": "hunter2"}}}, "/arguments/password/b"),
        ({"arguments": {"password": {"$literal": "hunter2"}}}, "/arguments/password/$literal"),
        ({"arguments": {"x": {"$literal": {"token": {"$arg": "/x"}}}}}, "/arguments/x/$literal/token/$arg"),
        ({"foreach": [{"password": "hunter2"}], "arguments": {"x": {"$item": "/password"}}}, "/foreach/0/password"),
    ],
)
def test_a_value_that_is_to_be_hidden_is_refused_wherever_a_subtask_holds_it(
    members: dict[str, Any], field: str
) -> None:
    problem = only_problem({"subtasks": [subtask("a", **members)], "redact": HIDDEN})

    assert problem.field == "/subtasks/0" + field
    assert problem.message.startswith("subtask 'a': is hidden in tasks by redact")
    assert "hunter2" not in str(problem)
    assert parse_definition({"subtasks": [subtask("a", **members)]}).subtasks


def test_the_answer_of_a_signal_that_does_not_come_holds_no_hidden_value_either() -> None:
    waiting = {"key": "a", "waitFor": "approval", "deadlineSeconds": 5, "default": {"payload": {"token": "t"}}}

    assert only_problem({"subtasks": [waiting], "redact": HIDDEN}).field == "/subtasks/0/default/payload/token"


def test_references_and_null_may_stand_under_a_hidden_name() -> None:
    taken = {
        "password": {"$arg": "/password"},
        "token": {"value": {"$from": "b", "path": "/token"}, "none": None},
        "path": {"$from": "b", "path": "/x"},
    }

    definition = parse_definition(
        {"subtasks": [subtask("a", "b", arguments=taken), subtask("b")], "redact": [*HIDDEN, "path", "$arg"]}
    )

    assert (definition.subtasks or ())[0].arguments == taken


def test_a_constant_argument_is_checked_where_kinds_are_given() -> None:
    takes = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["m"]}
    given = {"subtasks": [subtask("a"), subtask("b", arguments={"n": "x"})]}

    error = refusal(given, kinds={"builtin.noop": KindInfo("builtin.noop", takes)})

    assert isinstance(error, InvalidArgument)
    assert {one.field for one in error.sub_errors} == {
        "/subtasks/0/arguments/m",
        "/subtasks/1/arguments/m",
        "/subtasks/1/arguments/n",
    }
    assert parse_definition(given).subtasks


def test_more_names_to_hide_than_a_list_can_show_are_refused() -> None:
    assert "at most 100 elements" in only_problem(document(redact=[f"n{n}" for n in range(101)])).message


def test_limits_are_those_of_a_submission() -> None:
    three = [subtask("a"), subtask("b", "a"), subtask("c", "a", "b")]

    assert "the definition has 3 subtasks, at most 2" in refusal({"subtasks": three}, limits=Limits(subtasks=2)).message
    assert "has 3 edges, at most 2" in refusal({"subtasks": three}, limits=Limits(edges=2)).message
    for large in (document(arguments={"x": "y" * 50}), {"subtasks": [subtask("a", arguments={"x": "y" * 50})]}):
        assert isinstance(refusal(large, limits=Limits(stored_bytes=50)), TooLarge)


@pytest.mark.parametrize("name", ["prepare_host", "host.prepare-2", "sync:module", "模块"])
def test_a_name_is_a_key(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a[0]", "x" * 201, "inline", "\ud800", 5, None])
def test_what_is_no_name_is_refused_with_words_that_can_be_encoded(name: object) -> None:
    with pytest.raises(InvalidArgument, match="a definition's name") as caught:
        check_name(name)

    assert json.dumps([caught.value.message, str(caught.value.sub_errors)], ensure_ascii=False).encode()


@given(json_values, st.sampled_from(sorted(field.alias or "" for field in Definition.model_fields.values())))
def test_any_value_in_any_field_is_taken_or_refused_with_words_that_can_be_encoded(value: object, field: str) -> None:
    try:
        parse_definition(document(**{field: value}), kinds=kinds("builtin.noop"), callback_hosts=HOSTS)
    except Invalid as error:
        told = [error.message, *((p.field, p.message, p.rejected_value) for p in error.sub_errors)]
        assert json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
