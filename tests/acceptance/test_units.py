"""What a unit does and must not do: forged messages, the first failure, results, logs."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from celery import Celery
from pydantic import SecretStr

from schema.celeryapp import make_celery
from schema.settings import Settings
from schema.wire import DEFAULT_QUEUE, UNIT_TASK
from tests.acceptance.stack import Attempt, Document, Running, ledger, running, wait_for_runs
from tests.eventually import eventually

SLOTS = 2


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("units"), concurrency=SLOTS) as product:
        yield product


@pytest.fixture(scope="module")
def celery(product: Running) -> Iterator[Celery]:
    socket = product.directory / "run" / "redis.sock"
    with make_celery(Settings(redis_url=SecretStr(f"redis+socket://{socket}"))) as app:
        yield app
        app.pool.force_close_all()


def _gate(key: str, directory: Path, **fields: object) -> Document:
    return {"key": key, "kind": "probe.gate", "arguments": {"directory": str(directory)}, **fields}


def _span(key: str, directory: Path, **fields: object) -> Document:
    return {"key": key, "kind": "probe.span", "arguments": {"ledger": str(directory)}, **fields}


def _ids(product: Running, task: int) -> dict[str, int]:
    return {key: one["id"] for key, one in product.subtasks(task).items()}


def _forge(celery: Celery, product: Running, *arguments: object) -> None:
    """Send a unit and wait until a worker has dealt with it."""
    answer = celery.send_task(UNIT_TASK, args=arguments, queue=DEFAULT_QUEUE, ignore_result=True)
    assert answer.id
    eventually(lambda: not product.redis.llen(DEFAULT_QUEUE), what="the message is taken")


def test_a_message_for_what_still_waits_starts_nothing(product: Running, celery: Celery, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    holder = product.submit([_gate("holder", aside)])
    wait_for_runs(aside, 1)
    task = product.submit([_gate("a", tmp_path), _span("b", tmp_path, upstreams=["a"]), _span("c", tmp_path)])
    wait_for_runs(tmp_path, 1)
    ids = _ids(product, task)
    eventually(lambda: product.redis.llen(DEFAULT_QUEUE), what="c is released")
    product.redis.delete(DEFAULT_QUEUE)  # only forged messages are left

    for named in ([ids["b"]], [ids["a"], ids["b"]]):
        for straight in (True, False):
            celery.send_task(UNIT_TASK, args=[task, 1, straight, named], queue=DEFAULT_QUEUE)
    (aside / "open").touch()
    wait_for_runs(tmp_path, 2)  # c, published again behind them

    assert [words[-1] for words in ledger(tmp_path)[1:]] == ["c"]
    assert product.subtasks(task)["b"]["status"] == "PENDING"
    (tmp_path / "open").touch()
    product.assert_successful([holder, task])
    assert [(one.key, one.attempt) for one in product.attempts(task)] == [("a", 1), ("b", 1), ("c", 1)]


def test_a_message_that_names_subtasks_of_another_task_runs_none_of_them_as_its_own(
    product: Running, celery: Celery, tmp_path: Path
) -> None:
    holders = [product.submit([_gate("a", tmp_path)]) for _ in range(SLOTS)]
    wait_for_runs(tmp_path, SLOTS)
    queued = product.submit([_span("b", tmp_path)])
    eventually(lambda: product.redis.llen(DEFAULT_QUEUE), what="it is released")
    product.redis.delete(DEFAULT_QUEUE)  # only the forged message is left

    celery.send_task(UNIT_TASK, args=[holders[0], 1, False, [_ids(product, queued)["b"]]], queue=DEFAULT_QUEUE)
    (tmp_path / "open").touch()

    product.assert_successful([*holders, queued])
    assert [words for words in ledger(tmp_path) if words[1] == "b"] == [[str(queued), "b"]]
    assert product.attempts(queued) == [Attempt("b", 1, "SUCCESSFUL", None)]


@pytest.mark.parametrize(
    "arguments",
    [
        (10**9, 1, True, [1]),
        (10**30, 1, True, [1]),
        (-1, -1, False, [-1]),
        (1, 2**70, False, [1]),
        (1, 1, True, [10**30]),
        (1, 1, True, []),
        (1, 1, True, ["1"]),
        (1, 1, True, [True]),
        ("1", 1, True, [1]),
        (None,),
        (),
        (1, 1, True, [1], "more"),
        ({"task": 1},),
    ],
)
def test_a_forged_message_does_not_stop_the_worker(
    product: Running, celery: Celery, arguments: Sequence[object], tmp_path: Path
) -> None:
    pids = _pool(product)

    for _ in range(SLOTS):
        _forge(celery, product, *arguments)

    task = product.submit([_gate("n", tmp_path, foreach=[0, 1])])
    wait_for_runs(tmp_path, SLOTS)
    (tmp_path / "open").touch()
    product.assert_successful([task])
    assert _pool(product) == pids


def _pool(product: Running) -> list[int]:
    [row] = product.rows("SELECT processes FROM workers WHERE stopped_at IS NULL ORDER BY id DESC LIMIT 1")
    return sorted(row["processes"])


def test_after_a_failure_nothing_new_starts_and_what_runs_ends(product: Running, tmp_path: Path) -> None:
    """Pairs are units of their own, taken in this order: the second slot fails, with all the others out and next in line."""
    pairs = [
        [_gate("long", tmp_path), _span("after-long", tmp_path, upstreams=["long"])],
        [{"key": "bad", "kind": "builtin.fail"}, _span("after-bad", tmp_path, upstreams=["bad"])],
        *([_span(f"n{one}", tmp_path), _span(f"m{one}", tmp_path, upstreams=[f"n{one}"])] for one in range(5)),
    ]
    task = product.submit([subtask for pair in pairs for subtask in pair])
    eventually(lambda: product.subtasks(task)["bad"]["status"] == "FAILED", what="it has failed")
    (tmp_path / "open").touch()

    assert product.settle(task) == "FAILED"
    assert [one.key for one in product.attempts(task)] == ["long", "bad"]
    assert [words[0] for words in ledger(tmp_path)] == ["long"]
    states = {key: one["status"] for key, one in product.subtasks(task).items()}
    assert states == {**dict.fromkeys(states, "PENDING"), "long": "SUCCESSFUL", "bad": "FAILED"}
    error = product.detail(task)["error"]
    assert (error["subtask"], error["message"]) == ("bad", "asked to fail")


def test_results_go_on_to_downstreams_those_of_a_foreach_as_a_list(product: Running) -> None:
    task = product.submit(
        [
            {"key": "one", "kind": "builtin.echo", "arguments": {"host": {"$arg": "/host"}, "deep": {"list": [1, 2]}}},
            {
                "key": "each",
                "kind": "builtin.echo",
                "upstreams": ["one"],
                "foreach": ["x", "y", "z"],
                "arguments": {"item": {"$item": ""}, "second": {"$from": "one", "path": "/deep/list/1"}},
            },
            {"key": "gap", "kind": "builtin.noop", "upstreams": ["each"]},
            {
                "key": "last",
                "kind": "builtin.echo",
                "upstreams": ["gap"],
                "arguments": {"all": {"$from": "each"}, "host": {"$from": "one", "path": "/host"}},
            },
        ],
        arguments={"host": "10.0.0.7"},
    )

    product.assert_successful([task])
    each = [{"item": item, "second": 2} for item in ("x", "y", "z")]
    assert product.results(task)["last"] == {"all": each, "host": "10.0.0.7"}
    assert product.subtasks(task)["last"]["result"] == {"all": each, "host": "10.0.0.7"}


def test_the_log_of_each_attempt_is_kept_behind_a_separator(product: Running) -> None:
    task = product.submit(
        [{"key": "say", "kind": "probe.say", "arguments": {"failures": 1}, "maxAttempts": 2, "backoffSeconds": 0.1}]
    )

    product.assert_successful([task])
    first, separator, second = product.log(task, "say").partition("ValueError: attempt 1 is to fail\n")
    assert separator
    for number, text in ((1, first), (2, second)):
        assert text.count(f"printed in attempt {number}") == 1
        assert text.count(f"logged in attempt {number}") == 1
        assert f"in attempt {3 - number}" not in text
    for attempt in (first, second):
        assert re.fullmatch(r"#+\{EXECUTE\}\{[0-9T:.+-]+\}#+", attempt.splitlines()[0])
