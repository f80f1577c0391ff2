"""The submission document: what is taken, what is refused, and how it is told."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.documents.problems import MAX_REPORTED
from schema.documents.specification import Submission, parse_submission
from schema.errors import Invalid, InvalidArgument, InvalidGraph, SubError
from schema.limits import Limits

CONTRACT_EXAMPLE = """
{ "name": "Prepare host 10.0.0.7", "type": "MANUAL",
  "instanceId": 42, "extra": "", "onDuplicate": "reject", "arguments": {"host": "10.0.0.7"},
  "cluster": {"id": 100, "name": "meta", "obClusterId": 1, "type": "PRIMARY"},
  "tenant": {"id": 1, "name": "SYS", "obTenantId": 1, "mode": "MYSQL"}, "hostId": 7,
  "integrationId": 1, "userId": 1, "clientId": 1, "accountId": 1, "templateId": 1, "bizId": "2",
  "priority": 5, "startAt": "2026-12-01T00:00:00Z", "deadlineSeconds": 3600, "concurrency": 10, "prohibitRollback": false,
  "callbackUrl": "https://example.org/hook",
  "subtasks": [
    {"key": "check",  "kind": "host.check", "arguments": {"host": {"$arg": "/host"}}},
    {"key": "mount",  "kind": "host.mount", "upstreams": ["check"], "foreach": ["/data/1", "/data/2"], "mode": "parallel",
     "arguments": {"path": {"$item": ""}}, "timeout": 60, "maxAttempts": 3, "backoffSeconds": 2, "queue": "default",
     "prohibitRollback": false, "allowFailure": false},
    {"key": "ask",    "waitFor": "approval", "upstreams": ["mount"], "deadlineSeconds": 86400, "default": {"approve": false}},
    {"key": "report", "kind": "host.report", "upstreams": ["ask"], "when": {"$arg": "/wantReport"},
     "arguments": {"mounts": {"$from": "mount"}, "cpu": {"$from": "check", "path": "/cpu"}}}
  ] }
"""

any_text = st.text(st.characters(exclude_categories=()) | st.sampled_from("\x00\ud800$[/~"), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)


def document(**fields: Any) -> dict[str, Any]:
    return {"subtasks": [{"key": "a", "kind": "builtin.noop"}], **fields}


def with_subtask(**fields: Any) -> dict[str, Any]:
    return {"subtasks": [{"key": "a", "kind": "builtin.noop", **fields}]}


def refusal(given: object, **options: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_submission(given, **options)
    return caught.value


def only_problem(given: object) -> SubError:
    problems = refusal(given).sub_errors
    assert len(problems) == 1
    return problems[0]


class TestWhatIsTaken:
    def test_the_example_of_the_contract(self) -> None:
        submission = parse_submission(json.loads(CONTRACT_EXAMPLE))

        assert submission.subtasks is not None
        assert [subtask.key for subtask in submission.subtasks] == ["check", "mount", "ask", "report"]
        assert submission.subtasks[1].max_attempts == 3
        assert submission.subtasks[2].default is not None
        assert submission.subtasks[2].default.approve is False
        assert submission.tenant is not None
        assert submission.tenant.ob_tenant_id == 1
        assert submission.start_at == datetime(2026, 12, 1, tzinfo=UTC)

    def test_defaults(self) -> None:
        submission = parse_submission(document())

        assert submission == Submission.model_validate(document())
        assert (submission.type, submission.priority, submission.extra) == ("MANUAL", 5, "")
        assert submission.on_duplicate is None

    @pytest.mark.parametrize("written", ["SYS_ONCE", "SYS_ONECE"])
    def test_the_seeds_spelling_of_the_type_is_read(self, written: str) -> None:
        assert parse_submission(document(type=written)).type == "SYS_ONCE"

    def test_the_seeds_spelling_of_the_tenant_is_read(self) -> None:
        tenant = parse_submission(document(tenant={"obClusterId": 9})).tenant

        assert tenant is not None
        assert tenant.ob_tenant_id == 9

    def test_a_number_is_taken_as_business_id(self) -> None:
        assert parse_submission(document(bizId=2)).biz_id == "2"

    def test_times_are_turned_into_utc(self) -> None:
        submission = parse_submission(document(startAt="2026-12-01T08:00:00+08:00"))

        assert submission.start_at == datetime(2026, 12, 1, tzinfo=UTC)

    @pytest.mark.parametrize("key", ["a", "1", "_x", "检查", "host.check-1:b", "a" * 200])
    def test_keys(self, key: str) -> None:
        submission = parse_submission({"subtasks": [{"key": key, "kind": "k"}]})

        assert submission.subtasks is not None
        assert submission.subtasks[0].key == key

    @pytest.mark.parametrize(
        "foreach", [[], [1, {"$literal": {"$x": 1}}], {"$arg": "/disks"}, {"$from": "b", "path": "/x"}]
    )
    def test_foreach(self, foreach: object) -> None:
        parse_submission(with_subtask(foreach=foreach, mode="serial"))

    def test_bigint_bounds_are_inside(self) -> None:
        submission = parse_submission(document(hostId=2**63 - 1, instanceId=-(2**63)))

        assert (submission.host_id, submission.instance_id) == (2**63 - 1, -(2**63))

    def test_arguments_may_hold_any_number(self) -> None:
        assert parse_submission(document(arguments={"n": 2**100})).arguments == {"n": 2**100}


class TestFields:
    @pytest.mark.parametrize(
        ("fields", "field", "message"),
        [
            ({"priority": 10}, "/priority", "must be at most 9"),
            ({"priority": -1}, "/priority", "must be at least 0"),
            ({"priority": True}, "/priority", "must be a whole number"),
            ({"priority": "5"}, "/priority", "must be a whole number"),
            ({"instanceId": 2**63}, "/instanceId", "must be at most 9223372036854775807"),
            ({"bizId": False}, "/bizId", "must be a text"),
            ({"name": ""}, "/name", "must not be empty: give a text or leave the field out"),
            ({"name": "x" * 501}, "/name", "must be at most 500 characters"),
            ({"type": "AUTO"}, "/type", "must be one of 'MANUAL', 'SYS_ONCE', 'SCHEDULED' or 'SYS_SCHEDULED'"),
            ({"cluster": []}, "/cluster", "must be an object"),
            ({"cluster": {"type": "x"}}, "/cluster/type", "must be one of 'PRIMARY' or 'STANDBY'"),
            ({"arguments": []}, "/arguments", "must be an object"),
            ({"deadlineSeconds": 0}, "/deadlineSeconds", "must be more than 0"),
            ({"concurrency": -2}, "/concurrency", "must be at least -1"),
            ({"startAt": "tomorrow"}, "/startAt", "must be a time such as 2026-12-01T00:00:00Z"),
            ({"startAt": "2026-12-01T00:00:00"}, "/startAt", "must carry its offset from UTC: add Z or +08:00"),
            ({"startAt": 1}, "/startAt", "must be a text such as 2026-12-01T00:00:00Z"),
            (
                {"startAt": "9999-12-31T23:00:00-12:00"},
                "/startAt",
                "is outside the years 1 to 9999 in UTC: give another time",
            ),
            (
                {"callbackUrl": "ftp://x"},
                "/callbackUrl",
                "is not a URL to call: give http:// or https:// with a host, and no spaces",
            ),
            ({"prohibitRollback": 1}, "/prohibitRollback", "must be true or false"),
            ({"onDuplicate": "queue"}, "/onDuplicate", "needs an instanceId: duplicates are told by it"),
            ({"host_id": 1}, "/host_id", "is not a field here: did you mean hostId?"),
            ({"subtasks": {}}, "/subtasks", "must be an array"),
            ({"subtasks": [1]}, "/subtasks/0", "must be an object"),
        ],
    )
    def test_of_a_task(self, fields: dict[str, Any], field: str, message: str) -> None:
        problem = only_problem(document(**fields))

        assert (problem.field, problem.message) == (field, message)

    @pytest.mark.parametrize(
        ("fields", "field", "message"),
        [
            ({"key": "a[0]"}, "/key", "brackets are kept for foreach"),
            ({"key": "a b"}, "/key", "is not a key"),
            ({"key": "a" * 201}, "/key", "is longer than 200 characters"),
            ({"timeout": "60"}, "/timeout", "must be a number"),
            ({"timeout": 0}, "/timeout", "must be more than 0"),
            ({"maxAttempts": 0}, "/maxAttempts", "must be at least 1"),
            ({"maxAttempts": 1.5}, "/maxAttempts", "must be a whole number"),
            ({"backoffSeconds": 3601}, "/backoffSeconds", "must be at most 3600"),
            ({"upstreams": "b"}, "/upstreams", "must be an array"),
            ({"upstreams": [1]}, "/upstreams/0", "must be a text"),
            ({"mode": "both"}, "/mode", "must be one of 'parallel' or 'serial'"),
            ({"mode": "serial"}, "/mode", "only with foreach"),
            ({"max_attempts": 2}, "/max_attempts", "did you mean maxAttempts?"),
            ({"zzzzzz": 2}, "/zzzzzz", "the fields are allowFailure, arguments"),
            ({"deadlineSeconds": 5}, "/deadlineSeconds", "use timeout"),
            ({"default": {}}, "/default", "deadlineSeconds"),
            ({"waitFor": "approval"}, "/kind", "waitFor has none"),
            ({"kind": None, "waitFor": "approval", "timeout": 5}, "/timeout", "waitFor has none"),
            (
                {"kind": None, "waitFor": "approval", "deadlineSeconds": 1, "default": {"aprove": True}},
                "/default/aprove",
                "approve?",
            ),
            ({"kind": None}, "/kind", "is required: name the kind of work, or give waitFor"),
        ],
    )
    def test_of_a_subtask(self, fields: dict[str, Any], field: str, message: str) -> None:
        problem = only_problem(with_subtask(**fields))

        assert problem.field == "/subtasks/0" + field
        assert message in problem.message

    @pytest.mark.parametrize(
        ("fields", "field", "message"),
        [
            ({"arguments": {"x": [{"$arg": "host"}]}}, "/arguments/x/0", "start it with '/'"),
            ({"arguments": {"x": {"$form": "a"}}}, "/arguments/x", "'$form' is not used"),
            ({"when": True}, "/when", "a condition is an object"),
            ({"when": {"xor": []}}, "/when", "'xor' is not an operator"),
            ({"foreach": "abc"}, "/foreach", "foreach takes an array"),
            ({"foreach": {"$item": ""}}, "/foreach", "foreach takes an array"),
            ({"foreach": {"a": 1}}, "/foreach", "foreach takes an array"),
            ({"foreach": [1, {"x": {"$arg": ""}}]}, "/foreach", "element 1 of foreach holds a reference"),
        ],
    )
    def test_malformed_references_are_errors_of_the_graph(
        self, fields: dict[str, Any], field: str, message: str
    ) -> None:
        error = refusal(with_subtask(**fields))

        assert isinstance(error, InvalidGraph)
        assert error.code == 20001
        assert [problem.field for problem in error.sub_errors] == ["/subtasks/0" + field]
        assert message in error.message

    @pytest.mark.parametrize("given", [None, [], "x", 1, True])
    def test_a_submission_is_an_object(self, given: object) -> None:
        assert only_problem(given).message == "must be an object"

    def test_a_definition_or_subtasks_but_not_both(self) -> None:
        assert only_problem({}).message == "needs either a definition or subtasks: add one of them"
        assert only_problem(document(definition="d")).message == (
            "stands beside subtasks: give either a definition or subtasks"
        )


class TestTelling:
    def test_all_problems_are_told_together(self) -> None:
        error = refusal({"priority": 11, "subtasks": [{"key": "a b"}, {"kind": 5}]})

        assert isinstance(error, InvalidArgument)
        assert error.code == 10001
        assert [problem.field for problem in error.sub_errors] == [
            "/priority",
            "/subtasks/0/key",
            "/subtasks/1/key",
            "/subtasks/1/kind",
        ]
        assert error.message.startswith("4 problems, the first: /priority: must be at most 9")

    def test_at_most_fifty_are_told(self) -> None:
        error = refusal({"subtasks": [{"key": "[]"}] * 200})

        assert len(error.sub_errors) == MAX_REPORTED
        assert error.message.startswith("more than 50 problems")

    def test_a_long_value_is_shortened(self) -> None:
        problem = only_problem(document(name="x" * 5000))

        assert problem.rejected_value == "x" * 200 + "…"

    def test_the_field_is_a_pointer_with_escapes(self) -> None:
        assert only_problem(document(arguments={"a/b": "\x00"})).field == "/arguments/a~1b"

    @given(json_values)
    def test_whatever_comes_is_parsed_or_refused_with_words_that_can_be_encoded(self, given: object) -> None:
        try:
            parse_submission(given)
        except Invalid as error:
            told = [error.message, *((p.field, p.message, p.rejected_value) for p in error.sub_errors)]
            assert json.dumps(told, ensure_ascii=False, allow_nan=False).encode()

    @given(json_values, st.sampled_from(sorted(field.alias or "" for field in Submission.model_fields.values())))
    def test_the_same_for_any_value_in_any_field(self, value: object, field: str) -> None:
        try:
            parse_submission(document(**{field: value}))
        except Invalid as error:
            told = [error.message, *((p.field, p.message, p.rejected_value) for p in error.sub_errors)]
            assert json.dumps(told, ensure_ascii=False, allow_nan=False).encode()


class TestLimits:
    def test_too_many_subtasks_are_counted_before_they_are_read(self) -> None:
        error = refusal({"subtasks": [None] * 4}, limits=Limits(subtasks=3))

        assert isinstance(error, InvalidGraph)
        assert "has 4 subtasks, at most 3" in error.message

    def test_what_is_nested_too_deep_is_refused(self) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]

        assert "nested deeper than 64 levels" in only_problem(document(arguments={"x": deep})).message

    def test_the_depth_is_a_limit_like_the_others(self) -> None:
        assert "nested deeper than 3 levels" in refusal(document(arguments={"x": [[]]}), limits=Limits(depth=3)).message
