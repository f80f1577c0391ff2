"""The detail of a task and of a subtask, and why a subtask waits."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from schema.database import transaction
from schema.identity import split_hex
from schema.kinds import KindInfo
from schema.transitions.registrations import Beat, WorkerInfo, beat, register_kinds, register_worker, stop_worker
from taskserver.embedded.stack import EmbeddedStack
from taskserver.queries import details
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, execute, make_task

DIAMOND = {"top": (), "left": ("top",), "right": ("top",), "end": ("left", "right")}


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


@pytest.fixture
def worker(engine: Engine) -> int:
    with transaction(engine) as connection:
        register_worker(
            connection,
            WorkerInfo(id=1, name="w1", host="h", pid=9, queues=["default"], concurrency=4, code_version="v"),
        )
        beat(connection, 1, Beat(processes=[5, 6], claims=[7], carriers=[], started=3))
    return 1


def subtasks(api: ApiClient, task: StoredTask) -> dict[str, Any]:
    return {one["key"]: one for one in api.data(f"/instances/{task.id}")["subtasks"]}


def reasons(api: ApiClient, task: StoredTask) -> dict[str, str | None]:
    return {key: one.get("waitReason", {}).get("type") for key, one in subtasks(api, task).items()}


def test_a_detail_has_the_members_of_the_published_task(api: ApiClient, engine: Engine) -> None:
    cluster = {"id": 100, "name": "meta", "obClusterId": 1, "type": "PRIMARY"}
    tenant = {"id": 1, "name": "SYS", "obTenantId": 1, "mode": "MYSQL"}
    task = make_task(
        engine,
        DIAMOND,
        {"left": {"timeout": 30.0, "parallel_idx": 0, "name": "Left", "description": "goes left"}},
        cluster=cluster,
        tenant=tenant,
        user_id=3,
        arguments={"x": None},
    )

    data = api.data(f"/instances/{task.id}")

    top, left, _, end = data["subtasks"]
    assert (data["cluster"], data["tenant"], data["creator"]) == (cluster, tenant, {"id": 3, "name": "tester"})
    assert (data["status"], data["operation"], data["type"], data["taskDefinitionId"]) == (
        "RUNNING",
        "EXECUTE",
        "MANUAL",
        -1,
    )
    assert data["arguments"] == {"x": None}
    assert "startTime" not in data
    assert (left["name"], left["description"], left["timeout"], left["parallelIdx"]) == ("Left", "goes left", 30, 0)
    assert (top["name"], top["description"], top["nodeType"], top["runTime"]) == ("top", "top", "PYTHON_TASK", 1)
    assert (top["upstreams"], top["downstreams"]) == ([], [task.ids["left"], task.ids["right"]])
    assert (end["upstreams"], end["downstreams"]) == ([task.ids["left"], task.ids["right"]], [])
    assert [one["seriesId"] for one in data["subtasks"]] == [0, 1, 2, 3]
    assert split_hex(end["celeryId"]) == (data["taskId"], 3)


def test_a_hundred_subtasks_come_in_topological_order_with_agreeing_counters(api: ApiClient, engine: Engine) -> None:
    graph: dict[str, tuple[str, ...]] = {"first": ()}
    graph |= {f"w[{index}]": ("first",) for index in range(98)}
    graph["last"] = tuple(f"w[{index}]" for index in range(98))
    task = make_task(engine, graph)
    task.run("first")
    task.run("w[1]", "w[50]")

    data = api.data(f"/instances/{task.id}")

    listed = [one["id"] for one in data["subtasks"]]
    assert [one["key"] for one in data["subtasks"]] == list(graph)
    assert listed == sorted(listed)
    assert all(upstream < one["id"] for one in data["subtasks"] for upstream in one["upstreams"])
    states = [one["status"] for one in data["subtasks"]]
    assert {state: count for state, count in data["progress"].items() if count} == {
        state: states.count(state) for state in set(states)
    }
    assert len(data["subtasks"][-1]["waitReason"]["upstreams"]) == 96


def test_times_results_and_errors_follow_the_life_of_a_subtask(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"max_attempts": 3}})
    task.run("a", verdict="RETRY", error_type="boom", error_message="once", error_line=4)
    claimed = task.begin("a")
    running = subtasks(api, task)["a"]
    task.record(claimed, result={"cpu": [8, None]})
    done = subtasks(api, task)["a"]
    task.run("b", verdict="FAILED", error_type="bad", error_message="twice", error_line=7)
    failed = api.data(f"/instances/{task.id}")

    assert (running["status"], running["runTime"], running["attempt"]) == ("RUNNING", 2, 2)
    assert "finishTime" not in running
    assert done["result"] == {"cpu": [8, None]}
    assert done["startTime"] == running["startTime"] < done["finishTime"]
    assert failed["subtasks"][1]["error"] == {"type": "bad", "message": "twice", "logLine": 7}
    assert failed["error"] == {"type": "bad", "message": "twice", "subtask": "b"}
    assert (failed["status"], failed["state"]) == ("FAILED", "FAILED")
    assert failed["finishTime"] >= failed["startTime"]


def test_a_subtask_lists_its_attempts_with_the_running_one_last(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 3, "arguments": {"n": 1}}})
    task.run("a", verdict="RETRY", error_type="boom", error_message="once", error_line=4)
    task.begin("a", process=8)

    detail = api.data(f"/instances/{task.id}/subtasks/{task.ids['a']}")

    first, second = detail["attempts"]
    assert detail["arguments"] == {"n": 1}
    assert (first["attempt"], first["status"], first["executor"]) == (1, "FAILED", "process 7")
    assert first["error"] == {"type": "boom", "message": "once", "logLine": 4}
    assert first["startTime"] <= first["finishTime"] <= second["startTime"]
    assert (second["attempt"], second["status"], second["executor"]) == (2, "RUNNING", "process 8")
    assert not {"finishTime", "error"} & set(second)


def test_a_subtasks_view_is_the_tasks_and_more(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, DIAMOND)
    task.run("top", result=1)

    for key, shown in subtasks(api, task).items():
        alone = api.data(f"/instances/{task.id}/subtasks/{task.ids[key]}")
        assert {name: value for name, value in alone.items() if name not in {"attempts", "arguments"}} == shown


def test_rollback_is_prohibited_once_what_forbids_it_has_begun(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": (), "b": ("a",)}, {"b": {"prohibit_rollback": True}})
    always = make_task(engine, {"a": ()}, prohibit_rollback=True)
    task.run("a")
    before = api.data(f"/instances/{task.id}")["prohibitRollback"]
    task.begin("b")
    after = api.data(f"/instances/{task.id}")["prohibitRollback"]

    assert (before, after) == (False, True)
    assert api.data(f"/instances/{always.id}")["prohibitRollback"]


def test_results_beyond_the_budget_are_left_to_their_subtask(
    api: ApiClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(details, "RESULT_BYTES", 40)
    task = make_task(engine, {"a": (), "b": ()})
    task.run("a", result="x" * 20)
    task.run("b", result="y" * 20)

    shown = subtasks(api, task)

    assert shown["a"]["result"] == "x" * 20
    assert "result" not in shown["b"]
    assert api.data(f"/instances/{task.id}/subtasks/{task.ids['b']}")["result"] == "y" * 20


@pytest.mark.usefixtures("worker")
class TestWaitReason:
    def test_upstreams_that_have_not_ended_are_named(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, DIAMOND)
        task.run("top")
        task.run("left")

        waiting = subtasks(api, task)["end"]["waitReason"]

        assert (waiting["type"], waiting["upstreams"]) == ("upstream", [task.ids["right"]])

    def test_an_upstream_that_may_fail_is_not_waited_for(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ("a",)}, {"a": {"allow_failure": True}})
        task.run("a", verdict="FAILED")

        assert reasons(api, task) == {"a": None, "b": "queued"}

    def test_what_is_released_waits_in_its_queue_and_what_runs_does_not_wait(
        self, api: ApiClient, engine: Engine
    ) -> None:
        task = make_task(engine, {"a": (), "b": (), "c": ()})
        task.begin("a")
        task.release("b")

        assert reasons(api, task) == {"a": None, "b": "queued", "c": "queued"}

    def test_a_queue_without_a_live_worker_is_told(self, api: ApiClient, engine: Engine, worker: int) -> None:
        task = make_task(engine, {"a": (), "b": ()}, {"b": {"queue": "gpu"}})
        before = reasons(api, task)
        with transaction(engine) as connection:
            stop_worker(connection, worker)

        assert before == {"a": "queued", "b": "no_worker"}
        assert reasons(api, task) == {"a": "no_worker", "b": "no_worker"}

    def test_a_failed_sibling_holds_the_rest(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ()})
        task.run("a", verdict="FAILED")

        assert reasons(api, task) == {"a": None, "b": "task_failing"}

    def test_a_delayed_attempt_tells_until_when(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": ()}, {"a": {"max_attempts": 2}})
        task.run("a", verdict="RETRY", delay_seconds=600.0)

        waiting = subtasks(api, task)["a"]["waitReason"]

        assert waiting["type"] == "retry"
        assert waiting["until"] > subtasks(api, task)["a"]["startTime"]

    def test_a_full_task_holds_back_what_could_run(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ()}, concurrency=1)
        task.begin("a")

        assert reasons(api, task) == {"a": None, "b": "limit"}

    def test_a_later_start_is_told(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": ()})
        execute(
            engine,
            "UPDATE task_progress SET open = false, opens_at = '2100-01-01T00:00:00Z' WHERE id = :id",
            id=task.id,
        )

        waiting = subtasks(api, task)["a"]["waitReason"]

        assert (waiting["type"], waiting["until"]) == ("start_at", "2100-01-01T00:00:00+00:00")

    def test_a_paused_task_and_a_missing_signal_are_told(self, api: ApiClient, engine: Engine) -> None:
        task = make_task(engine, {"a": (), "b": ()})
        task.set("b", "gate = 'signal'")
        execute(engine, "UPDATE tasks SET state = 'SUSPENDED' WHERE id = :id", id=task.id)

        assert reasons(api, task) == {"a": "paused", "b": "signal"}

    def test_a_queued_duplicate_names_who_holds_its_instance(self, api: ApiClient, engine: Engine) -> None:
        holder = make_task(engine, {"a": ()}, duplicate_key="k")
        task = make_task(engine, {"a": ()}, duplicate_key="k", on_duplicate="queue")

        waiting = subtasks(api, task)["a"]["waitReason"]

        assert (waiting["type"], waiting["holder"]) == ("duplicate", holder.id)


def test_the_plan_is_the_whole_graph_whatever_has_ended(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, DIAMOND)
    before = api.data(f"/instances/{task.id}/plan")
    task.run("top")

    chord = {"header": [{"unit": ["left"]}, {"unit": ["right"]}], "body": {"unit": ["end"]}}
    assert before["fragments"] == [{"id": 0, "after": [], "canvas": {"chain": [{"unit": ["top"]}, {"chord": chord}]}}]
    assert before["mermaid"].startswith("flowchart")
    assert api.data(f"/instances/{task.id}/plan") == before


def test_operations_are_listed_in_order(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    for verb, subtask in (("pause", None), ("retry", task.ids["a"])):
        execute(
            engine,
            "INSERT INTO operations (task_id, subtask_id, verb, principal, from_state, to_state, reason)"
            " VALUES (:task, :subtask, :verb, 'alice', 'RUNNING', 'SUSPENDED', 'lunch')",
            task=task.id,
            subtask=subtask,
            verb=verb,
        )

    first, second = api.data(f"/instances/{task.id}/operations")["contents"]

    time = first.pop("time")
    assert first == {
        "verb": "pause",
        "principal": "alice",
        "from": "RUNNING",
        "to": "SUSPENDED",
        "reason": "lunch",
    }
    assert (second["verb"], second["subtaskId"]) == ("retry", task.ids["a"])
    assert time <= second["time"]


def test_kinds_and_workers_are_listed(api: ApiClient, engine: Engine, worker: int) -> None:
    schema = {"type": "object", "properties": {"host": {"default": None}}}
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("b.kind"), KindInfo("a.kind", arguments_schema=schema)], code_version="v")

    kinds = api.data("/kinds")["contents"]
    (shown,) = api.data("/workers")["contents"]

    assert [kind["name"] for kind in kinds] == ["a.kind", "b.kind"]
    assert kinds[0]["argumentsSchema"] == schema
    assert (shown["id"], shown["alive"], shown["processes"], shown["claims"]) == (worker, True, 2, 1)
    with transaction(engine) as connection:
        stop_worker(connection, worker)
    (stopped,) = api.data("/workers")["contents"]
    assert (stopped["alive"], "stopTime" in stopped) == (False, True)


def test_a_cancelled_attempt_shows_what_its_handler_returned_all_the_same(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, {"a": ()})
    claimed = task.begin("a")
    task.cancel("a")
    task.record(claimed, "SUCCESSFUL", result={"cpu": 8})

    shown = api.data(f"/instances/{task.id}/subtasks/{task.ids['a']}")

    assert (shown["status"], "result" in shown) == ("FAILED", False)
    assert [(one["status"], one["result"]) for one in shown["attempts"]] == [("CANCELED", {"cpu": 8})]
