"""The same shapes as tasks of `builtin.noop`, from POST to settled, over HTTP."""

from typing import Any

import httpx

_NOOP = "builtin.noop"


def chain40() -> list[dict[str, Any]]:
    """One task: forty subtasks, one after the other."""
    keys = [f"step{n}" for n in range(40)]
    ups = [[], *([key] for key in keys)]
    return [_task([{"key": key, "kind": _NOOP, "upstreams": up} for key, up in zip(keys, ups, strict=False)])]


def fan1000() -> list[dict[str, Any]]:
    """One task: a thousand subtasks in parallel, and a join."""
    return [
        _task(
            [
                {"key": "part", "kind": _NOOP, "foreach": list(range(1000))},
                {"key": "join", "kind": _NOOP, "upstreams": ["part"]},
            ]
        )
    ]


def dia100() -> list[dict[str, Any]]:
    """A hundred tasks at once: one, eight in parallel, one."""
    diamond = _task(
        [
            {"key": "fork", "kind": _NOOP},
            {"key": "part", "kind": _NOOP, "upstreams": ["fork"], "foreach": list(range(8))},
            {"key": "join", "kind": _NOOP, "upstreams": ["part"]},
        ]
    )
    return [diamond] * 100


CASES = {"chain40": chain40, "fan1000": fan1000, "dia100": dia100}
SUBTASKS = {"chain40": 40, "fan1000": 1001, "dia100": 1000}


def run(client: httpx.Client, case: str, *, timeout: float) -> None:
    """Submit the case and wait until every task of it has settled.

    Raises:
        AssertionError: A task did not end SUCCESSFUL.

    """
    answer = client.post("/api/v2/tasks/instances/batch", json=CASES[case]()).raise_for_status()
    ids = [task["id"] for task in answer.json()["data"]]
    for task in ids:
        parameters: dict[str, str | int] = {"waitSeconds": int(min(60, timeout)), "until": "settled"}
        status = (
            client.get(f"/api/v2/tasks/instances/{task}/status", params=parameters).raise_for_status().json()["data"]
        )
        assert status["state"] == "SUCCESSFUL", status


def _task(subtasks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "bench", "subtasks": subtasks}
