"""Expansion: references and kinds checked, foreach expanded, arguments checked, sizes held."""

from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.documents.specification import parse_submission
from schema.errors import Invalid, InvalidArgument, InvalidGraph, TooLarge
from schema.kinds import KindInfo
from schema.limits import DEFAULT_LIMITS, Limits
from taskserver.expansion import ExpandedSubtask, ExpandedTask, expand

CHECK = KindInfo(
    "host.check",
    {
        "type": "object",
        "properties": {
            "host": {"type": "string"},
            "port": {"type": "integer", "maximum": 65535},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
            "login": {"anyOf": [{"$ref": "#/$defs/Login"}, {"type": "null"}]},
        },
        "required": ["host"],
        "additionalProperties": False,
        "$defs": {
            "Login": {
                "type": "object",
                "properties": {"user": {"type": "string"}},
                "required": ["user"],
                "additionalProperties": False,
            }
        },
    },
    queue="hosts",
    timeout=30.0,
    max_attempts=3,
    backoff_seconds=2.0,
    isolated=True,
    has_rollback=True,
    prohibit_rollback=True,
)
KINDS = {kind.name: kind for kind in (KindInfo("noop"), CHECK)}


def subtask(key: str, *upstreams: str, kind: str = "noop", **fields: Any) -> dict[str, Any]:
    return {"key": key, "kind": kind, "upstreams": list(upstreams), **fields}


def expanded(*subtasks: dict[str, Any], limits: Limits = DEFAULT_LIMITS, **fields: Any) -> ExpandedTask:
    return expand(parse_submission({"subtasks": list(subtasks), **fields}), kinds=KINDS, limits=limits)


def by_key(task: ExpandedTask) -> dict[str, ExpandedSubtask]:
    return {one.key: one for one in task.subtasks}


def edges(task: ExpandedTask) -> set[tuple[str, str]]:
    keys = [one.key for one in task.subtasks]
    return {(keys[upstream], one.key) for one in task.subtasks for upstream in one.upstreams}


def refusal(*subtasks: dict[str, Any], **options: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        expanded(*subtasks, **options)
    return caught.value


def told(error: Invalid) -> list[tuple[str, str]]:
    return [(problem.field, problem.message) for problem in error.sub_errors]


class TestSubtasks:
    def test_stand_in_topological_order_else_as_written(self) -> None:
        task = expanded(subtask("c", "a"), subtask("b"), subtask("a"))

        assert [(one.series_id, one.key, one.upstreams) for one in task.subtasks] == [
            (0, "b", ()),
            (1, "a", ()),
            (2, "c", (1,)),
        ]
        assert task.edge_count == 1

    def test_take_the_defaults_of_their_kind(self) -> None:
        (one,) = expanded(subtask("a", kind="host.check", arguments={"host": "h"})).subtasks

        assert (one.queue, one.timeout, one.max_attempts, one.backoff_seconds) == ("hosts", 30.0, 3, 2.0)
        assert (one.isolated, one.has_rollback, one.prohibit_rollback) == (True, True, True)
        assert (one.name, one.description, one.template_key, one.parallel_idx) == ("a", "a", None, -1)

    def test_what_is_written_wins_over_the_kind(self) -> None:
        written = {
            "queue": "q",
            "timeout": 5,
            "maxAttempts": 1,
            "backoffSeconds": 0,
            "prohibitRollback": False,
            "name": "N",
            "description": "",
            "allowFailure": True,
        }
        (one,) = expanded(subtask("a", kind="host.check", arguments={"host": "h"}, **written)).subtasks

        assert (one.queue, one.timeout, one.max_attempts, one.backoff_seconds) == ("q", 5.0, 1, 0.0)
        assert (one.prohibit_rollback, one.name, one.description, one.allow_failure) == (False, "N", "", True)

    def test_references_name_each_upstream_once(self) -> None:
        task = expanded(
            subtask("a"),
            subtask("b", "a"),
            subtask("c", "b", arguments={"x": {"$from": "b"}, "y": [{"$from": "a"}, {"$from": "b", "path": "/z"}]}),
        )

        assert by_key(task)["c"].references == ("b", "a")

    @pytest.mark.parametrize(("given", "limit"), [(None, None), (0, None), (-1, 10), (7, 7)])
    def test_concurrency(self, given: int | None, limit: int | None) -> None:
        assert expanded(subtask("a"), concurrency=given).concurrency == limit


class TestForeach:
    def test_parallel_elements_are_siblings(self) -> None:
        task = expanded(
            subtask("up"),
            subtask("m", "up", foreach=["/a", "/b"], arguments={"p": {"$item": ""}, "c": {"$arg": ""}}),
            subtask("down", "m"),
        )

        assert edges(task) == {("up", "m[0]"), ("up", "m[1]"), ("m[0]", "down"), ("m[1]", "down")}
        first, second = by_key(task)["m[0]"], by_key(task)["m[1]"]
        assert (first.template_key, first.parallel_idx, first.arguments) == ("m", 0, {"p": "/a", "c": {"$arg": ""}})
        assert (second.template_key, second.parallel_idx, second.name) == ("m", 1, "m[1]")
        assert task.edge_count == 4

    def test_serial_elements_are_a_chain(self) -> None:
        task = expanded(subtask("up"), subtask("m", "up", foreach=[1, 2, 3], mode="serial"), subtask("down", "m"))

        assert edges(task) == {("up", "m[0]"), ("m[0]", "m[1]"), ("m[1]", "m[2]"), ("m[2]", "down")}
        assert [one.parallel_idx for one in task.subtasks] == [-1, 0, 1, 2, -1]
        assert task.edge_count == 4

    def test_two_parallel_ones_are_joined_by_every_pair(self) -> None:
        task = expanded(subtask("a", foreach=[1, 2]), subtask("b", "a", foreach=[1, 2, 3]))

        assert edges(task) == {(f"a[{i}]", f"b[{j}]") for i in range(2) for j in range(3)}

    def test_elements_may_come_from_the_tasks_arguments(self) -> None:
        task = expanded(
            subtask("m", foreach={"$arg": "/disks"}, arguments={"p": {"$item": "/path"}}),
            arguments={"disks": [{"path": "/a"}, {"path": {"$from": "x"}}]},
        )

        assert [one.arguments for one in task.subtasks] == [{"p": "/a"}, {"p": {"$literal": {"$from": "x"}}}]

    def test_the_arguments_may_be_the_element(self) -> None:
        (one,) = expanded(subtask("m", foreach=[{"host": "h"}], kind="host.check", arguments={"$item": ""})).subtasks

        assert one.arguments == {"host": "h"}

    @pytest.mark.parametrize("foreach", [[], {"$arg": "/none"}])
    def test_without_elements_one_node_stays_under_the_bare_key(self, foreach: object) -> None:
        task = expanded(
            subtask("up"),
            subtask("m", "up", kind="host.check", foreach=foreach, arguments={"host": {"$item": "/x"}}),
            subtask("down", "m", arguments={"all": {"$from": "m"}}),
            arguments={"none": []},
        )

        assert edges(task) == {("up", "m"), ("m", "down")}
        stays = by_key(task)["m"]
        assert (stays.template_key, stays.parallel_idx, stays.arguments) == ("m", -1, {})
        assert (stays.kind, stays.queue) == ("builtin.noop", "hosts")

    def test_an_element_without_the_path_is_named(self) -> None:
        error = refusal(subtask("m", foreach=[{"p": 1}, {"q": 1}], arguments={"x": [{"$item": "/p"}]}))

        assert error.code == 20001
        ((field, message),) = told(error)
        assert field == "/subtasks/0/arguments/x/0"
        assert "subtask 'm[1]'" in message
        assert "'/p' leads nowhere in the foreach element" in message

    def test_elements_that_are_no_array_are_refused(self) -> None:
        error = refusal(subtask("m", foreach={"$arg": "/x"}), arguments={"x": 5})

        assert told(error)[0][0] == "/subtasks/0/foreach"
        assert "is not an array in the task's arguments: give an array there" in error.message

    def test_elements_that_are_not_there_are_told_once(self) -> None:
        error = refusal(subtask("m", foreach={"$arg": "/x"}))

        assert [field for field, _ in told(error)] == ["/subtasks/0/foreach"]

    def test_arguments_that_become_something_else_than_an_object_are_refused(self) -> None:
        error = refusal(subtask("m", foreach=[{}, 5], arguments={"$item": ""}))

        assert told(error) == [
            ("/subtasks/0/arguments", "subtask 'm[1]': arguments are an object, but this foreach element is none")
        ]


class TestReferences:
    def test_an_unknown_kind_names_subtask_kind_and_what_is_close(self) -> None:
        error = refusal(subtask("a", kind="host.chek"))

        assert isinstance(error, InvalidGraph)
        assert told(error) == [
            (
                "/subtasks/0/kind",
                (
                    "subtask 'a' asks for kind 'host.chek', which no worker has registered: did you mean 'host.check'? "
                    "A kind is known once a worker with the module that defines it has started (its --handlers)"
                ),
            )
        ]

    def test_an_unknown_kind_without_anything_close_is_told_in_one_sentence(self) -> None:
        error = refusal(subtask("a", kind="zzz"))

        assert "which no worker has registered: a kind is known once" in error.message

    @pytest.mark.parametrize(
        ("taker", "message"),
        [
            (
                subtask("b", arguments={"x": {"$from": "a"}}),
                "'a' is not upstream of it: add 'a' to the upstreams of 'b'",
            ),
            (subtask("b", "a", arguments={"x": {"$from": "aa"}}), "there is no subtask 'aa': did you mean 'a'?"),
            (subtask("b", "a", arguments={"x": {"$from": "b"}}), "its own result: name one of its upstreams"),
            (subtask("b", "a", arguments={"x": {"$from": "z"}}), "'z' runs after it"),
            (subtask("b", "m", arguments={"x": {"$from": "m[1]"}}), """take {"$from": 'm', "path": "/1"}"""),
            (subtask("b", arguments={"x": {"$arg": "/hots"}}), "without 'hots'"),
            (subtask("b", arguments={"x": {"$item": ""}}), 'uses "$item" outside a foreach'),
        ],
    )
    def test_a_reference_that_leads_nowhere(self, taker: dict[str, Any], message: str) -> None:
        error = refusal(subtask("a"), subtask("m", foreach=[1, 2]), taker, subtask("z", "b"), arguments={"host": "h"})

        assert error.code == 20001
        ((field, words),) = told(error)
        assert field == "/subtasks/2/arguments/x"
        assert words.startswith("subtask 'b' ")
        assert message in words

    def test_a_transitive_upstream_will_do(self) -> None:
        expanded(subtask("a"), subtask("b", "a"), subtask("c", "b"), subtask("d", "c", arguments={"x": {"$from": "a"}}))

    def test_literals_are_not_references(self) -> None:
        (one,) = expanded(subtask("a", arguments={"x": {"$literal": {"$from": "nobody"}}})).subtasks

        assert one.arguments == {"x": {"$literal": {"$from": "nobody"}}}
        assert one.references == ()

    @pytest.mark.parametrize("field", ["when", "foreach"])
    def test_when_and_foreach_are_checked_too(self, field: str) -> None:
        error = refusal(subtask("a"), subtask("b", **{field: {"$from": "a"}}))

        assert [place for place, _ in told(error)] == [f"/subtasks/1/{field}"]
        assert "add 'a' to the upstreams of 'b'" in error.message

    def test_a_cycle_is_told_with_its_path_and_with_what_else_is_wrong(self) -> None:
        error = refusal(subtask("a", "b"), subtask("b", "a", kind="nope", arguments={"x": {"$arg": "/y"}}))

        assert isinstance(error, InvalidGraph)
        assert "a → b → a" in error.message
        assert [field for field, _ in told(error)] == ["/subtasks/0", "/subtasks/1/kind", "/subtasks/1/arguments/x"]

    def test_no_subtasks_are_an_error_of_the_graph(self) -> None:
        assert refusal().code == 20001

    def test_many_problems_are_told_soon(self) -> None:
        subtasks = [subtask(f"n{i}", kind=f"kind{i}", arguments={"x": {"$from": f"m{i}"}}) for i in range(20_000)]

        assert len(refusal(*subtasks).sub_errors) == 50


class TestArguments:
    def check(self, arguments: dict[str, Any], **fields: Any) -> list[tuple[str, str]]:
        error = refusal(
            subtask("up"), subtask("a", "up", kind="host.check", arguments=arguments, **fields), arguments={"v": 1}
        )
        assert isinstance(error, InvalidArgument)
        return [(field.removeprefix("/subtasks/1/arguments"), message) for field, message in told(error)]

    def test_a_missing_one_is_named(self) -> None:
        assert self.check({}) == [("/host", "subtask 'a': is required by kind 'host.check': add it")]

    def test_an_unknown_one_is_named(self) -> None:
        assert self.check({"host": "h", "hots": 1}) == [
            ("/hots", "subtask 'a': 'hots': kind 'host.check' takes no such argument")
        ]

    def test_a_wrong_value_is_told(self) -> None:
        assert self.check({"host": "h", "port": "x"}) == [
            ("/port", """subtask 'a': is not what kind 'host.check' takes: "x" is not of type "integer\"""")
        ]

    def test_a_wrong_alternative_is_told_with_its_reasons(self) -> None:
        ((field, message),) = self.check({"host": "h", "login": 5})

        assert field == "/login"
        assert message.endswith('5 is not of type "object" or 5 is not of type "null"')

    def test_all_are_told(self) -> None:
        assert [field for field, _ in self.check({"port": 70000, "tags": ["c"]})] == ["/port", "/tags/0", "/host"]

    def test_a_literal_is_checked_as_what_it_stands_for(self) -> None:
        assert [field for field, _ in self.check({"host": {"$literal": {"$x": 1}}})] == ["/host"]

    def test_elements_are_checked_one_by_one(self) -> None:
        ((field, message),) = self.check({"host": {"$item": ""}}, foreach=["h", 5])

        assert field == "/host"
        assert message.startswith("subtask 'a[1]':")

    @pytest.mark.parametrize(
        "arguments",
        [
            {"host": {"$from": "up"}},
            {"host": {"$arg": "/v"}, "port": {"$from": "up", "path": "/p"}},
            {"host": "h", "tags": ["a", {"$from": "up"}]},
            {"host": "h", "tags": {"$from": "up"}},
            {"host": "h", "login": {"user": {"$from": "up"}}},
            {"host": "h", "login": {"$from": "up"}},
            {"$from": "up"},
        ],
    )
    def test_what_a_reference_will_yield_is_left_open(self, arguments: dict[str, Any]) -> None:
        expanded(subtask("up"), subtask("a", "up", kind="host.check", arguments=arguments), arguments={"v": 1})

    @pytest.mark.parametrize(
        ("arguments", "fields"),
        [
            ({"port": {"$from": "up"}}, ["/host"]),
            ({"host": {"$from": "up"}, "hots": 1}, ["/hots"]),
            ({"host": "h", "hots": {"$from": "up"}}, ["/hots"]),
            ({"host": {"$from": "up"}, "port": "x"}, ["/port"]),
            ({"host": "h", "tags": [{"$from": "up"}, "c"]}, ["/tags/1"]),
            ({"host": "h", "tags": [{"$from": "up"}, "a", "b"]}, ["/tags"]),
        ],
    )
    def test_what_is_constant_beside_a_reference_is_checked(self, arguments: dict[str, Any], fields: list[str]) -> None:
        assert [field for field, _ in self.check(arguments)] == fields

    @pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:1/schema"}])
    def test_a_kind_with_an_unusable_schema_is_named(self, schema: dict[str, object]) -> None:
        submission = parse_submission({"subtasks": [subtask("a", kind="odd")]})

        with pytest.raises(InvalidGraph, match="kind 'odd' is registered with an arguments schema that cannot be used"):
            expand(submission, kinds={"odd": KindInfo("odd", schema)})


class TestNotYetAvailable:
    @pytest.mark.parametrize(
        ("later", "field"),
        [
            (subtask("b", "a", when={"$from": "a"}), "when"),
            ({"key": "b", "waitFor": "callback"}, "waitFor"),
            (subtask("b", "a", foreach={"$from": "a"}), "foreach"),
        ],
    )
    def test_what_cannot_run_yet_is_refused(self, later: dict[str, Any], field: str) -> None:
        error = refusal(subtask("a"), later)

        assert isinstance(error, InvalidArgument)
        assert [place for place, _ in told(error)] == [f"/subtasks/1/{field}"]
        assert "is not available in this version" in error.message

    @pytest.mark.parametrize(
        "later",
        [{"callbackUrl": "https://host/done"}],
    )
    def test_what_the_task_cannot_be_promised_yet_is_refused(self, later: dict[str, Any]) -> None:
        document = {"subtasks": [subtask("a")], **later}

        with pytest.raises(InvalidArgument, match="not available in this version") as caught:
            expand(parse_submission(document), kinds=KINDS)
        assert [place for place, _ in told(caught.value)] == [f"/{next(iter(later))}"]


class TestLimits:
    def test_subtasks_are_counted_after_expansion(self) -> None:
        error = refusal(subtask("a", foreach=[1, 2, 3]), subtask("b"), limits=Limits(subtasks=3))

        assert isinstance(error, InvalidGraph)
        assert "has 4 subtasks, at most 3" in error.message

    def test_edges_are_counted_before_they_are_built(self) -> None:
        wide = [subtask(f"m{i}", *([f"m{i - 1}"] if i else []), foreach=[0] * 45_000) for i in range(2)]

        error = refusal(*wide)

        assert isinstance(error, InvalidGraph)
        assert "more than 1000000 edges (TASKSERVER_MAX_EDGES), counted up to subtask 'm1'" in error.message

    @pytest.mark.parametrize("where", ["task", "subtask", "element"])
    def test_arguments_are_limited_each(self, where: str) -> None:
        large = "x" * 100
        given = subtask("a", arguments={"x": large} if where == "subtask" else {})
        if where == "element":
            given = subtask("a", foreach=["", large], arguments={"x": {"$item": ""}})

        error = refusal(given, arguments={"x": large} if where == "task" else {}, limits=Limits(stored_bytes=100))

        assert isinstance(error, TooLarge)
        assert error.target == ("/arguments" if where == "task" else "/subtasks/0/arguments")
        assert "108 bytes as JSON, at most 100 are stored" in error.message

    def test_what_foreach_repeats_is_limited_in_all(self) -> None:
        given = subtask("a", foreach=[0] * 11, arguments={"x": "y" * 92})

        assert len(expanded({**given, "foreach": [0] * 10}, limits=Limits(expanded_bytes=1000)).subtasks) == 10
        error = refusal(given, limits=Limits(expanded_bytes=1000))

        assert isinstance(error, TooLarge)
        assert '{"$arg": …}' in error.message


@st.composite
def templates(draw: st.DrawFn) -> list[dict[str, Any]]:
    count = draw(st.integers(1, 6))
    written = []
    for index in range(count):
        upstreams = draw(st.lists(st.sampled_from([f"n{i}" for i in range(index)]), unique=True)) if index else []
        fields: dict[str, Any] = {}
        if draw(st.booleans()):
            fields["foreach"] = list(range(draw(st.integers(0, 4))))
            fields["mode"] = draw(st.sampled_from(["parallel", "serial"]))
            fields["arguments"] = {"item": {"$item": ""}}
        written.append(subtask(f"n{index}", *upstreams, **fields))
    return draw(st.permutations(written))


def instances(written: dict[str, Any]) -> list[str]:
    key, foreach = written["key"], written.get("foreach")
    return [f"{key}[{i}]" for i in range(len(foreach))] if foreach else [key]


class TestProperties:
    @given(templates())
    def test_ids_are_places_and_upstreams_come_first(self, written: list[dict[str, Any]]) -> None:
        task = expanded(*written)

        for place, one in enumerate(task.subtasks):
            assert one.series_id == place
            assert list(one.upstreams) == sorted(set(one.upstreams))
            assert all(upstream < place for upstream in one.upstreams)

    @given(templates())
    def test_edges_are_exactly_those_of_the_templates(self, written: list[dict[str, Any]]) -> None:
        nodes = {one["key"]: instances(one) for one in written}
        serial = {one["key"]: one.get("mode") == "serial" for one in written}
        expected: set[tuple[str, str]] = set()
        for one in written:
            key = one["key"]
            entries = nodes[key][:1] if serial[key] else nodes[key]
            if serial[key]:
                expected.update(pairwise(nodes[key]))
            for upstream in one["upstreams"]:
                exits = nodes[upstream][-1:] if serial[upstream] else nodes[upstream]
                expected.update(product(exits, entries))

        task = expanded(*written)

        assert edges(task) == expected
        assert task.edge_count == len(expected) == sum(len(one.upstreams) for one in task.subtasks)

    @given(templates())
    def test_every_element_becomes_one_subtask_with_its_part(self, written: list[dict[str, Any]]) -> None:
        task = expanded(*written)

        assert sorted(one.key for one in task.subtasks) == sorted(key for one in written for key in instances(one))
        for one in task.subtasks:
            if one.parallel_idx >= 0:
                assert one.key == f"{one.template_key}[{one.parallel_idx}]"
                assert one.arguments == {"item": one.parallel_idx}

    @given(templates(), st.integers(0, 30))
    def test_the_edge_limit_is_exact(self, written: list[dict[str, Any]], most: int) -> None:
        count = expanded(*written).edge_count

        if count > most:
            assert "edges" in refusal(*written, limits=Limits(edges=most)).message
        else:
            assert expanded(*written, limits=Limits(edges=most)).edge_count == count
