"""The plan document: its shape in the contract's words, what is merged for the eye, and a flowchart of bounded size."""

import re
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given

from taskserver.plan_view import MERMAID_CHARS, MERMAID_EDGES, MERMAID_NODES, plan_document
from taskserver.planner import PlanNode, plan
from tests.unit.test_planner_properties import ANY, Case

Edges = Sequence[tuple[int, int]]
Json = dict[str, object]


def document(nodes: Iterable[PlanNode], edges: Edges, keys: dict[int, str] | None = None, slots: int = 4) -> Json:
    nodes = list(nodes)
    named = {node.id: f"k{node.id}" for node in nodes} | (keys or {})
    return plan_document(plan(nodes, edges, slots={"default": slots}), named, edges)


def plain(count: int, *, isolated: bool = False) -> list[PlanNode]:
    return [PlanNode(id_, isolated=isolated) for id_ in range(1, count + 1)]


def fork_join(width: int) -> Edges:
    branches = range(2, width + 2)
    return [*((1, branch) for branch in branches), *((branch, width + 2) for branch in branches)]


def canvases(found: Json) -> list[tuple[int, list[int], Json]]:
    assert isinstance(found["fragments"], list)
    return [(one["id"], one["after"], one["canvas"]) for one in found["fragments"]]


def mermaid(found: Json) -> str:
    assert isinstance(found["mermaid"], str)
    return found["mermaid"]


def drawn_nodes(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.fullmatch(r'\w+\["[^"]*"\]', line)]


def drawn_edges(text: str) -> list[str]:
    return [line for line in text.splitlines() if "-->" in line]


def unit(*ids: int) -> Json:
    return {"unit": [f"k{id_}" for id_ in ids]}


class TestCanvas:
    def test_one_unit_is_just_the_unit(self) -> None:
        assert canvases(document(plain(2), [(1, 2)])) == [(0, [], unit(1, 2))]

    def test_one_chord_is_just_the_chord(self) -> None:
        found = canvases(document(plain(3), [(1, 3), (2, 3)]))

        assert found == [(0, [], {"chord": {"header": [unit(1), unit(2)], "body": unit(3)}})]

    def test_steps_are_a_chain(self) -> None:
        found = canvases(document(plain(4), fork_join(2)))

        assert found == [(0, [], {"chain": [unit(1), {"chord": {"header": [unit(2), unit(3)], "body": unit(4)}}]})]

    def test_wide_fan_out_joined_by_the_database_is_shown_as_the_chord_that_it_is(self) -> None:
        edges = [*fork_join(40), (42, 43), (42, 44), (43, 45), (44, 45)]

        found = canvases(document(plain(45), edges, slots=40))

        header = [unit(id_) for id_ in range(2, 42)]
        assert found == [
            (0, [], unit(1)),
            (
                1,
                [0],
                {
                    "chain": [
                        {"chord": {"header": header, "body": unit(42)}},
                        {"chord": {"header": [unit(43), unit(44)], "body": unit(45)}},
                    ]
                },
            ),
        ]

    def test_join_that_waits_for_more_than_the_fan_out_is_not_merged_with_it(self) -> None:
        edges = [*((1, id_) for id_ in range(2, 42)), *((id_, 43) for id_ in range(2, 43))]

        found = canvases(document(plain(43), edges, slots=40))

        assert found[-1] == (3, [1, 2], unit(43))

    def test_join_that_also_waits_outside_is_not_merged(self) -> None:
        nodes = [*plain(3), PlanNode(4, outside=1)]

        found = canvases(document(nodes, fork_join(2)))

        assert found == [(0, [], unit(1)), (1, [0], {"group": [unit(2), unit(3)]}), (2, [1], unit(4))]

    def test_siblings_without_a_join_are_a_group(self) -> None:
        found = canvases(document(plain(7), [(1, id_) for id_ in range(2, 8)], slots=1))

        assert found == [(0, [], unit(1)), (1, [0], {"group": [unit(2, 3, 4), unit(5, 6, 7)]})]

    def test_layers_are_groups_one_after_the_other(self) -> None:
        edges = [(upstream, downstream) for upstream in (1, 2) for downstream in (3, 4)]

        found = canvases(document(plain(4), edges))

        assert found == [(0, [], {"group": [unit(1), unit(2)]}), (1, [0], {"group": [unit(3), unit(4)]})]

    def test_siblings_with_different_followers_stay_apart(self) -> None:
        found = canvases(document(plain(4), [(1, 3), (1, 4), (2, 4)]))

        assert found == [(0, [], {"chain": [unit(1), unit(3)]}), (1, [], unit(2)), (2, [0, 1], unit(4))]


def keys_in(node: object) -> list[str]:
    match node:
        case {"unit": keys}:
            return list(keys)
        case {"chain": parts} | {"group": parts}:
            return [key for part in parts for key in keys_in(part)]
        case {"chord": {"header": header, "body": body}}:
            return [key for part in [*header, body] for key in keys_in(part)]
    raise AssertionError(node)


@given(ANY)
def test_every_key_is_shown_once_and_after_points_back(case: Case) -> None:
    found = canvases(document(case.nodes, case.edges))

    shown = [key for _, _, canvas in found for key in keys_in(canvas)]
    assert sorted(shown) == sorted(f"k{node.id}" for node in case.nodes)
    assert [id_ for id_, _, _ in found] == list(range(len(found)))
    assert all(before < id_ for id_, after, _ in found for before in after)


@given(ANY)
def test_after_is_where_the_upstreams_of_the_beginning_are(case: Case) -> None:
    found = canvases(document(case.nodes, case.edges))
    shown_in = {key: id_ for id_, _, canvas in found for key in keys_in(canvas)}

    for id_, after, _ in found:
        crossing = {shown_in[f"k{up}"] for up, down in case.edges if shown_in[f"k{down}"] == id_}
        assert set(after) == crossing - {id_}


class TestMermaid:
    def test_small_graph_shows_each_subtask_and_each_real_edge(self) -> None:
        text = mermaid(document(plain(4), fork_join(2)))

        assert text == (
            "flowchart TD\n"
            'subgraph f0["fragment 0"]\n'
            'n1["k1"]\nn2["k2"]\nn3["k3"]\nn4["k4"]\n'
            "end\n"
            "n1 --> n2\nn1 --> n3\nn2 --> n4\nn3 --> n4\n"
        )

    @pytest.mark.parametrize(
        ("key", "label"),
        [
            ("mount[0]", "mount[0]"),
            ("主机.检查", "主机.检查"),
            ('say "hi"]', "say #34;hi#34;]"),
            ("<b>&amp;", "#60;b#62;#38;amp#59;"),
            ("%%{init: {}}%%", "#37;#37;#123;init: #123;#125;#125;#37;#37;"),
            ("`md`#1;\nend", "#96;md#96;#35;1#59;#10;end"),
            ("x" * 41, "x" * 39 + "…"),
        ],
    )
    def test_keys_cannot_break_out_of_their_label(self, key: str, label: str) -> None:
        assert mermaid(document(plain(1), [], {1: key})) == f'flowchart TD\nn1["{label}"]\n'

    def test_more_subtasks_than_fit_are_drawn_by_unit(self) -> None:
        text = mermaid(document(plain(1002), fork_join(1000)))

        assert drawn_nodes(text)[:3] == ['u0["k1"]', 'u1["k2 … k126 (125)"]', 'u2["k127 … k251 (125)"]']
        assert drawn_edges(text) == [
            *(f"u0 --> u{slice_}" for slice_ in range(1, 9)),
            *(f"u{slice_} --> u9" for slice_ in range(1, 9)),
        ]

    def test_more_edges_than_fit_are_drawn_by_unit(self) -> None:
        edges = [(upstream, downstream) for upstream in range(1, 31) for downstream in range(31, 61)]

        text = mermaid(document(plain(60), edges, slots=1))

        assert len(drawn_nodes(text)) == 4
        assert len(drawn_edges(text)) == 4

    def test_more_units_than_fit_are_drawn_by_fragment(self) -> None:
        text = mermaid(document(plain(2002, isolated=True), fork_join(2000)))

        assert text == ('flowchart TD\nf0["fragment 0 (1 subtasks)"]\nf1["fragment 1 (2001 subtasks)"]\nf0 --> f1\n')

    def test_edges_inside_a_unit_are_not_drawn(self) -> None:
        text = mermaid(document(plain(1000), [(id_, id_ + 1) for id_ in range(1, 1000)]))

        assert drawn_nodes(text) == ['u0["k1 … k500 (500)"]', 'u1["k501 … k1000 (500)"]']
        assert drawn_edges(text) == ["u0 --> u1"]

    def test_what_no_level_can_hold_is_counted(self) -> None:
        edges = [(id_ - back, id_) for id_ in range(4, 2001) for back in (1, 2, 3)]

        text = mermaid(document(plain(2000), edges))

        assert len(drawn_nodes(text)) == MERMAID_NODES
        assert len(drawn_edges(text)) == MERMAID_EDGES
        assert re.search(r'more\["\d+ more fragments, \d+ more edges"\]', text)

    @pytest.mark.parametrize(
        ("count", "key"), [(400, "k"), (400, "<" * 60), (5_000, "k"), (5_000, "<" * 60), (100_000, "<" * 60)]
    )
    def test_it_never_grows_beyond_what_mermaid_takes(self, count: int, key: str) -> None:
        edges = [(id_ // 3 + 1, id_ + 2) for id_ in range(count - 2)]

        text = mermaid(document(plain(count), edges, dict.fromkeys(range(1, count + 1), key)))

        assert len(drawn_nodes(text)) <= MERMAID_NODES
        assert len(drawn_edges(text)) <= MERMAID_EDGES
        assert len(text) <= MERMAID_CHARS
