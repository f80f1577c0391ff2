"""Whatever the shape of a graph: its order is kept, each subtask runs once, and nothing waits that need not."""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.acceptance.stack import Document, Running, ledger, running

SLOTS = 4
_SPAN = "probe.span"
# What the machinery may add to a graph of sleeping subtasks, on a machine that does other things as well.
_OVERHEAD_SECONDS = 0.6
_STEP_SECONDS = 0.15

Graph = Mapping[str, Sequence[str]]  # upstreams by key


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("shapes"), concurrency=SLOTS) as product:
        yield product


def _layers(*widths: int) -> dict[str, list[str]]:
    graph: dict[str, list[str]] = {}
    before: list[str] = []
    for layer, width in enumerate(widths):
        keys = [f"n{layer}_{index}" for index in range(width)]
        graph.update({key: list(before) for key in keys})
        before = keys
    return graph


def _fork_join(graph: dict[str, list[str]], name: str, after: list[str], depth: int) -> str:
    """Add a fork-join whose branches are fork-joins themselves; return its join."""
    graph[f"{name}f"] = after
    if depth == 0:
        return f"{name}f"
    graph[f"{name}j"] = [_fork_join(graph, f"{name}{branch}", [f"{name}f"], depth - 1) for branch in range(3)]
    return f"{name}j"


def _nested() -> dict[str, list[str]]:
    graph: dict[str, list[str]] = {}
    _fork_join(graph, "r", [], 3)
    return graph


def _random(seed: int) -> dict[str, list[str]]:
    chance = random.Random(seed)
    count, density = chance.randint(1, 30), chance.random() ** 2
    return {f"n{one}": [f"n{other}" for other in range(one) if chance.random() < density] for one in range(count)}


NAMED: dict[str, Graph] = {
    "single": {"a": []},
    "pair": {"a": [], "b": ["a"]},
    "diamond": {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]},
    "n": {"a": [], "b": [], "c": ["a"], "d": ["a", "b"]},
    "disconnected": {"a": [], "b": ["a"], "c": [], "d": ["c"], "e": ["c"], "f": []},
    "shortcut": {"a": [], "b": ["a"], "c": ["b"], "d": ["a", "c"]},
    "two joins": {"a": [], "b": [], "c": [], "d": ["a", "b"], "e": ["b", "c"], "f": ["d", "e"]},
    "nested": _nested(),
    "wide": _layers(1000, 1),
    "long": _layers(*[1] * 400),
    "bipartite": _layers(*[20] * 20),
}


def _subtasks(graph: Graph, directory: Path, seconds: Mapping[str, float] | None = None) -> list[Document]:
    return [
        {
            "key": key,
            "kind": _SPAN,
            "upstreams": list(upstreams),
            "arguments": {"seconds": (seconds or {}).get(key, 0), "ledger": str(directory)},
        }
        for key, upstreams in graph.items()
    ]


def _assert_order(graph: Graph, spans: Mapping[str, Sequence[float]]) -> None:
    """The handlers' own times, not the record, tell what ran before what."""
    assert spans.keys() == graph.keys()
    broken = [
        (upstream, key)
        for key, upstreams in graph.items()
        for upstream in upstreams
        if spans[key][0] < spans[upstream][1]
    ]
    assert not broken, f"began before its upstream had ended: {broken}"


def _assert_each_ran_once(product: Running, task: int, graph: Graph, directory: Path) -> None:
    assert sorted(key for number, key in ledger(directory) if int(number) == task) == sorted(graph)
    recorded = [(one.key, one.attempt, one.outcome) for one in product.attempts(task)]
    assert sorted(recorded) == sorted((key, 1, "SUCCESSFUL") for key in graph)


def _assert_ran_as_drawn(product: Running, tasks: Mapping[int, Graph], directory: Path) -> None:
    product.assert_successful(list(tasks), within=60)
    for task, graph in tasks.items():
        _assert_order(graph, product.results(task))
        _assert_each_ran_once(product, task, graph, directory)


def _makespan(spans: Mapping[str, Sequence[float]]) -> float:
    return max(end for _, end in spans.values()) - min(begin for begin, _ in spans.values())


def _critical_path(graph: Graph, seconds: Mapping[str, float]) -> float:
    ends: dict[str, float] = {}
    for key, upstreams in graph.items():  # upstreams come first
        ends[key] = seconds[key] + max((ends[one] for one in upstreams), default=0.0)
    return max(ends.values())


@pytest.mark.parametrize("name", NAMED)
def test_a_named_shape_keeps_its_order_and_runs_each_subtask_once(product: Running, name: str, tmp_path: Path) -> None:
    task = product.submit(_subtasks(NAMED[name], tmp_path))

    _assert_ran_as_drawn(product, {task: NAMED[name]}, tmp_path)


def test_random_graphs_side_by_side_keep_their_order_and_run_each_subtask_once(
    product: Running, tmp_path: Path
) -> None:
    graphs = [_random(seed) for seed in range(60)]

    tasks = {product.submit(_subtasks(graph, tmp_path)): graph for graph in graphs}

    _assert_ran_as_drawn(product, tasks, tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_graph_takes_little_longer_than_a_greedy_schedule_would(
    product: Running, seed: int, tmp_path: Path
) -> None:
    graph = _random(1000 + seed)
    chance = random.Random(seed)
    seconds = {key: chance.choice([0.0, 0.05, 0.2]) for key in graph}

    task = product.submit(_subtasks(graph, tmp_path, seconds))
    product.assert_successful([task])

    spans = product.results(task)
    _assert_order(graph, spans)
    # Graham: no greedy schedule takes longer than the critical path and the rest of the work spread over the slots.
    longest = _critical_path(graph, seconds) + sum(seconds.values()) / SLOTS
    assert _makespan(spans) < longest + _OVERHEAD_SECONDS


def test_in_the_n_shape_c_ends_while_b_still_runs(product: Running, tmp_path: Path) -> None:
    seconds = {"a": 0.05, "b": 1.5, "c": 0.05, "d": 0.0}

    task = product.submit(_subtasks(NAMED["n"], tmp_path, seconds))
    product.assert_successful([task])

    spans = product.results(task)
    assert spans["c"][1] < spans["b"][1] - 0.5
    assert spans["d"][0] >= spans["b"][1]
    assert spans["d"][0] - spans["b"][1] < _STEP_SECONDS * 2


def test_of_two_branches_the_short_one_goes_on_alone(product: Running, tmp_path: Path) -> None:
    graph = {
        "fork": [],
        "slow": ["fork"],
        "quick": ["fork"],
        "then": ["quick"],
        "last": ["then"],
        "end": ["slow", "last"],
    }
    seconds = dict.fromkeys(graph, 0.1) | {"slow": 1.2}

    task = product.submit(_subtasks(graph, tmp_path, seconds))
    product.assert_successful([task])

    spans = product.results(task)
    assert spans["last"][1] < spans["slow"][1] - 0.3
    assert _makespan(spans) < _critical_path(graph, seconds) + _OVERHEAD_SECONDS


@pytest.mark.parametrize("width", [2, SLOTS])
def test_a_fan_out_as_wide_as_the_slots_takes_the_time_of_one(product: Running, width: int, tmp_path: Path) -> None:
    graph = _layers(width, 1)
    seconds = {key: 0.5 if upstreams == [] else 0.0 for key, upstreams in graph.items()}

    task = product.submit(_subtasks(graph, tmp_path, seconds))
    product.assert_successful([task])

    assert _makespan(product.results(task)) < 0.5 + _STEP_SECONDS * 2


def test_a_slice_whose_subtask_is_slow_gives_the_rest_to_the_idle_slots(product: Running, tmp_path: Path) -> None:
    graph = _layers(200)
    quick = product.submit(_subtasks(graph, tmp_path))  # so that the kind is known to be quick, and claimed in bulk
    product.assert_successful([quick])
    seconds = {"n0_3": 1.5}

    task = product.submit(_subtasks(graph, tmp_path, seconds))
    product.assert_successful([task])

    spans = product.results(task)
    others = max(end for key, (_, end) in spans.items() if key != "n0_3")
    assert others < spans["n0_3"][1] - 0.8
    _assert_each_ran_once(product, task, graph, tmp_path)


def test_a_quick_graph_that_proves_slow_is_spread_over_the_slots(product: Running, tmp_path: Path) -> None:
    graph = {"a": [], "b": [], "c": ["a", "b"]}
    for _ in range(3):
        product.assert_successful([product.submit(_subtasks(graph, tmp_path))])

    task = product.submit(_subtasks(graph, tmp_path, {"a": 0.8, "b": 0.8, "c": 0.0}))
    product.assert_successful([task])

    assert _makespan(product.results(task)) < 1.3
