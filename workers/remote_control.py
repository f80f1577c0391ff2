"""What may be done to a worker through Celery's remote control: ping, inspect, revoke. Everything else is refused.

Whoever reaches the broker, or has Flower's login, can send these commands. Celery's own revoke would make workers drop the
messages of whole units, for ever: here it asks for what it means, a cancel. And a worker asked for its configuration
gives no password away.
"""

import re
from collections.abc import Callable
from typing import Any

from celery.worker.control import Panel
from structlog import get_logger

from workers.runtime import Runtime

Command = Callable[..., Any]

# `heartbeat` only makes the worker tell at once that it lives: who begins to listen asks for it.
_LOOKING = frozenset(
    {
        *("ping", "heartbeat", "clock", "stats", "report", "conf", "active_queues", "query_task"),
        *("active", "reserved", "scheduled", "revoked"),
        *("dump_conf", "dump_active", "dump_reserved", "dump_schedule", "dump_revoked"),
    }
)
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_PASSWORD = re.compile(r"(password=)[^&\s'\"]*")
_log = get_logger("taskserver.worker")


class Commands(dict[str, Command]):
    """The commands by name; any other name is a command that refuses."""

    def __missing__(self, name: str) -> Command:
        def refuse(_state: Any, /, **_arguments: Any) -> dict[str, str]:
            _log.warning("command refused", action="remote_control", command=name)
            return {"error": f"{name} is not available: workers can be pinged and inspected, and tasks revoked"}

        return refuse


def restrict_remote_control(runtime: Runtime) -> None:
    """Leave of Celery's commands those that only look, and put ours in the place of the others."""

    def active(state: Any, /, **arguments: Any) -> list[dict[str, Any]]:
        running = runtime.running()
        return [one | {"subtask": running.get(one["worker_pid"])} for one in stock_active(state, **arguments)]

    def heartbeat(state: Any, /, **_: Any) -> None:
        runtime.audience_arrives()
        stock_heartbeat(state)

    def registered(_state: Any, /, **_: Any) -> list[str]:
        return runtime.kinds()

    def revoke(_state: Any, /, task_id: object = None, **_: Any) -> dict[str, str]:
        return _revoke(runtime, task_id)

    stock_active, stock_heartbeat = Panel.data["active"], Panel.data["heartbeat"]
    Panel.data["heartbeat"] = heartbeat
    Panel.data["active"] = Panel.data["dump_active"] = active
    looking = {name: _guarded(command) for name, command in Panel.data.items() if name in _LOOKING}
    Panel.data = Commands(looking, hello=_hello, revoke=revoke, registered=registered, dump_tasks=registered)


def _guarded(command: Command) -> Command:
    def answer(state: Any, /, **arguments: Any) -> Any:
        try:
            return masked(command(state, **arguments))
        except TypeError as error:  # an argument that the command does not have
            return {"error": str(error)}

    return answer


def masked(answer: Any) -> Any:
    """Return the answer without the passwords that Celery leaves in an address."""
    match answer:
        case str():
            return _PASSWORD.sub(r"\1********", answer)
        case dict():
            return {name: masked(value) for name, value in answer.items()}
        case list():
            return [masked(value) for value in answer]
    return answer


def _hello(state: Any, /, from_node: str = "", **_: Any) -> dict[str, Any] | None:
    """Greet a worker that starts: tell the time, and take no news of revoked messages."""
    return None if from_node == state.hostname else {"revoked": [], "clock": state.app.clock.forward()}


def _revoke(runtime: Runtime, task_id: object) -> dict[str, str]:
    """Ask for the cancel of tasks and subtasks by their hex ids; how they are stopped is not the caller's to say.

    Celery knows an answer that is `ok` and one that is an `error`; where some ids were refused, both are told.
    """
    given = task_id if isinstance(task_id, list) else [task_id]
    ids = [one for one in given if isinstance(one, str) and _HEX_ID.fullmatch(one)]
    if not ids or ids != given:
        return {"error": "give the 32 hex digits of a task or a subtask, or a list of such ids"}
    revocation = runtime.cancel_requested(ids, actor="flower")
    if revocation is None:
        return {"ok": f"cancel taken, and not done yet: {', '.join(ids)}; if it is refused, the worker's log says so"}
    done = {"ok": f"cancel requested: {', '.join(revocation.done)}"} if revocation.done else {}
    refused = {"error": "; ".join(revocation.refused.values())} if revocation.refused else {}
    return done | refused
