"""The commands that a worker answers, as Celery keeps them: in one dictionary for the whole process."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel
from pydantic import SecretStr

from schema.celeryapp import make_celery
from schema.settings import Settings
from workers.remote_control import Commands, masked, restrict_remote_control
from workers.revoker import Revocation
from workers.runtime import Runtime

TASK = "ab" * 12 + "0" * 8
OTHER = "cd" * 12 + "0" * 8


class Revoking(Runtime):
    """A runtime that notes what it is asked to cancel."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked: list[str] = []
        self.refused: dict[str, str] = {}
        self.is_slow = False

    def cancel_requested(self, hex_ids: Any, *, actor: str) -> Revocation | None:
        self.asked += hex_ids
        if self.is_slow:
            return None
        return Revocation([one for one in hex_ids if one not in self.refused], self.refused)


@pytest.fixture
def settings() -> Settings:
    return Settings(redis_url=SecretStr("redis+socket://:hunter2@/run/redis.sock?password=hunter2"))


@pytest.fixture
def runtime(settings: Settings) -> Revoking:
    return Revoking(settings)


@pytest.fixture
def commands(runtime: Revoking) -> Iterator[Commands]:
    stock = Panel.data
    Panel.data = dict(stock)
    restrict_remote_control(runtime)
    yield Panel.data
    Panel.data = stock


@pytest.fixture
def state(settings: Settings) -> SimpleNamespace:
    return SimpleNamespace(app=make_celery(settings), hostname="dev@here")


def test_only_what_looks_or_revokes_is_left(commands: Commands) -> None:
    assert set(commands) == {
        *(
            "ping",
            "heartbeat",
            "clock",
            "hello",
            "stats",
            "report",
            "conf",
            "registered",
            "active_queues",
            "query_task",
        ),
        *("active", "reserved", "scheduled", "revoked", "revoke"),
        *("dump_conf", "dump_tasks", "dump_active", "dump_reserved", "dump_schedule", "dump_revoked"),
    }


@pytest.mark.parametrize("name", ["shutdown", "pool_restart", "add_consumer", "enable_events", "terminate", "nonsense"])
def test_any_other_command_is_refused_whatever_its_arguments(commands: Commands, name: str) -> None:
    answer = commands[name](None, state=1, queue="x", _state=2)

    assert answer == {"error": f"{name} is not available: workers can be pinged and inspected, and tasks revoked"}


def test_a_wrong_argument_is_an_answer(commands: Commands, state: SimpleNamespace) -> None:
    assert "ids" in commands["query_task"](state)["error"]


@pytest.mark.parametrize("name", ["conf", "report"])
def test_no_password_is_given_away(commands: Commands, state: SimpleNamespace, name: str) -> None:
    answer = commands[name](state)

    assert "hunter2" not in str(answer)
    assert "redis.sock" in str(answer) or name == "report"


def test_passwords_are_masked_wherever_they_stand() -> None:
    answer = {"a": ["redis://h/0?password=hunter2&db=1"], "b": 5}

    assert masked(answer) == {"a": ["redis://h/0?password=********&db=1"], "b": 5}


@pytest.mark.parametrize("given", [TASK, [TASK], [TASK, TASK[:-1] + "1"]])
def test_revoke_asks_for_a_cancel(commands: Commands, runtime: Revoking, given: Any) -> None:
    answer = commands["revoke"](None, task_id=given, terminate=True, signal="KILL")

    assert runtime.asked == ([given] if isinstance(given, str) else given)
    assert answer == {"ok": f"cancel requested: {', '.join(runtime.asked)}"}


@pytest.mark.parametrize("given", [None, "", "x", 5, [], [TASK, 5], [TASK, "x"], {"a": 1}, TASK.upper()])
def test_revoke_takes_ids_only(commands: Commands, runtime: Revoking, given: Any) -> None:
    answer = commands["revoke"](None, task_id=given)

    assert answer == {"error": "give the 32 hex digits of a task or a subtask, or a list of such ids"}
    assert runtime.asked == []


def test_revoke_tells_why_it_cannot(commands: Commands, runtime: Revoking) -> None:
    runtime.refused = {TASK: "task 7 has settled"}

    assert commands["revoke"](None, task_id=TASK) == {"error": "task 7 has settled"}


def test_revoke_tells_of_several_what_was_done_and_what_was_refused(commands: Commands, runtime: Revoking) -> None:
    runtime.refused = {TASK: "task 7 has settled"}

    answer = commands["revoke"](None, task_id=[TASK, OTHER])

    assert answer == {"ok": f"cancel requested: {OTHER}", "error": "task 7 has settled"}


def test_revoke_tells_when_it_is_not_known_yet_what_became_of_it(commands: Commands, runtime: Revoking) -> None:
    runtime.is_slow = True

    answer = commands["revoke"](None, task_id=TASK)

    assert answer["ok"].startswith(f"cancel taken, and not done yet: {TASK};")


def test_a_worker_that_greets_cannot_make_us_drop_messages(commands: Commands, state: SimpleNamespace) -> None:
    answer = commands["hello"](state, from_node="other@here", revoked={TASK: 1})

    assert answer["revoked"] == []
    assert commands["revoked"](state) == []
    assert commands["hello"](state, from_node="dev@here") is None
