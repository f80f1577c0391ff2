"""What a submitted graph must be, the order it gets, and who is upstream of whom."""

import itertools
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.documents.dag import Dag
from schema.errors import InvalidGraph

Subtasks = list[tuple[str, list[str]]]


def ordered(dag: Dag) -> list[str]:
    return [dag.keys[position] for position in dag.order]


def refusal(subtasks: Subtasks) -> InvalidGraph:
    with pytest.raises(InvalidGraph) as caught:
        Dag.build(subtasks)
    return caught.value


class TestChecks:
    def test_empty_graph(self) -> None:
        assert refusal([]).message == "the task has no subtasks; give at least one"

    def test_duplicate_key(self) -> None:
        error = refusal([("a", []), ("b", []), ("a", [])])

        assert error.target == "a"
        assert error.message == "subtask key 'a' is used twice; give each subtask its own key"

    def test_unknown_upstream_names_the_closest_key(self) -> None:
        error = refusal([("check", []), ("mount", []), ("report", ["chekc"])])

        assert error.target == "report"
        assert "subtask 'report' names the upstream 'chekc'" in error.message
        assert error.message.endswith("did you mean 'check'?")

    def test_unknown_upstream_that_resembles_nothing(self) -> None:
        error = refusal([("check", []), ("report", ["zzz"])])

        assert error.message.endswith("no key resembles it; add that subtask or remove the upstream")

    def test_endless_unknown_upstream_is_cut_in_the_message(self) -> None:
        assert len(refusal([("check", []), ("report", ["x" * 1_000_000])]).message) < 500

    def test_self_edge(self) -> None:
        error = refusal([("a", ["a"])])

        assert error.target == "a"
        assert error.message == "subtask 'a' names itself as its upstream; remove it from its upstreams"

    def test_cycle_is_told_with_its_path_in_the_direction_of_work(self) -> None:
        error = refusal([("start", []), ("c", ["b"]), ("b", ["a", "start"]), ("a", ["c"]), ("end", ["c"])])

        assert "c → a → b → c;" in error.message
        assert error.target == "c"

    def test_long_cycle_is_told_by_its_ends(self) -> None:
        error = refusal([(f"k{index}", [f"k{(index - 1) % 1000}"]) for index in range(1000)])

        assert error.message.startswith("the subtasks wait for each other: k0 → k1 → k2 → ")
        assert "→ (980 more) → k999 → k0;" in error.message

    def test_repeated_upstream_counts_once(self) -> None:
        dag = Dag.build([("a", []), ("b", ["a", "a"])])

        assert list(dag.edges()) == [("a", "b")]
        assert dag.edge_count == 1


class TestOrder:
    def test_a_legal_order_stays_as_written(self) -> None:
        dag = Dag.build([("c", []), ("a", ["c"]), ("d", []), ("b", ["a", "d"])])

        assert ordered(dag) == ["c", "a", "d", "b"]

    def test_only_what_must_wait_moves_back(self) -> None:
        dag = Dag.build([("report", ["check"]), ("other", []), ("check", []), ("last", [])])

        assert ordered(dag) == ["other", "check", "report", "last"]

    def test_same_graphs_are_equal(self) -> None:
        assert Dag.build([("a", []), ("b", ["a"])]) == Dag.build([("a", []), ("b", ["a"])])


@st.composite
def graphs(draw: st.DrawFn) -> Subtasks:
    """Acyclic by construction, written in any order."""
    count = draw(st.integers(1, 12))
    possible = list(itertools.combinations(range(count), 2))
    edges = draw(st.sets(st.sampled_from(possible))) if possible else set()
    subtasks = [(f"k{below}", [f"k{up}" for up, down in sorted(edges) if down == below]) for below in range(count)]
    return draw(st.permutations(subtasks))


@given(graphs())
def test_order_holds_each_subtask_once_after_its_upstreams(subtasks: Subtasks) -> None:
    places = {key: place for place, key in enumerate(ordered(Dag.build(subtasks)))}

    assert sorted(places) == sorted(key for key, _ in subtasks)
    assert all(places[upstream] < places[key] for key, upstreams in subtasks for upstream in upstreams)


@given(graphs())
def test_upstream_means_that_a_path_leads_there(subtasks: Subtasks) -> None:
    dag = Dag.build(subtasks)
    above: dict[str, set[str]] = {}
    for key in ordered(dag):
        direct = dict(subtasks)[key]
        above[key] = set(direct).union(*(above[upstream] for upstream in direct))

    for upstream, downstream in itertools.product(above, repeat=2):
        assert dag.is_upstream(upstream, downstream) == (upstream in above[downstream])


@given(graphs(), st.integers(2, 6))
def test_any_cycle_is_refused_with_a_path_of_real_edges(subtasks: Subtasks, length: int) -> None:
    ring = [f"r{place}" for place in range(length)]
    waiting = {subtasks[0][0]: ring[0]}  # what waits for the ring without being in it must not be shown
    cyclic = [(key, [*upstreams, *([waiting[key]] if key in waiting else [])]) for key, upstreams in subtasks]
    cyclic += [(key, [ring[place - 1]]) for place, key in enumerate(ring)]

    error = refusal(cyclic)

    path = error.message.split(": ")[1].split(";")[0].split(" → ")
    assert path == [*ring, ring[0]]


def test_question_about_a_key_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        Dag.build([("a", [])]).is_upstream("a", "b")


COUNT = 100_000


def deep() -> Subtasks:
    return [(f"k{index}", [f"k{index - 1}"] if index else []) for index in range(COUNT)]


def dense() -> Subtasks:
    """About a million edges."""
    dice = random.Random(1)
    return [(f"k{index}", [f"k{dice.randrange(index)}" for _ in range(10)] if index else []) for index in range(COUNT)]


@pytest.mark.parametrize("shape", [deep, dense])
def test_the_largest_graphs_take_seconds(shape: Callable[[], Subtasks]) -> None:
    subtasks = shape()

    began = time.process_time()
    dag = Dag.build(subtasks)
    assert dag.is_upstream("k0", f"k{COUNT - 1}")

    assert time.process_time() - began < 8
    assert dag.order == tuple(range(COUNT))


def test_many_questions_about_a_deep_graph_take_no_search_each() -> None:
    dag = Dag.build(deep())

    began = time.process_time()
    answers = [dag.is_upstream("k0", f"k{index}") for index in range(1, COUNT)]

    assert all(answers)
    assert time.process_time() - began < 5
