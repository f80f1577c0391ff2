"""Operators' verbs over HTTP, as the tests of the whole stack use them."""

import httpx

from tests.acceptance.stack import Document, Product
from tests.eventually import eventually

_PATH = "/api/v2/tasks/instances"


def operate(product: Product, task: int, verb: str, *, key: str | None = None) -> Document:
    """Use a verb that must be taken, on the task or the subtask with that key; return what was answered."""
    answer = _call(product, task, verb, key)
    assert answer.status_code == httpx.codes.OK, answer.text
    return dict(answer.json().get("data") or {})


def refusal(product: Product, task: int, verb: str, *, key: str | None = None) -> Document:
    """Use a verb that must be refused; return the error."""
    answer = _call(product, task, verb, key)
    assert answer.is_client_error, answer.text
    return dict(answer.json()["error"])


def is_taken(product: Product, task: int, verb: str, *, key: str | None = None) -> bool:
    """Use a verb; tell whether it was taken. It may only be refused because of the state."""
    answer = _call(product, task, verb, key)
    if answer.is_success:
        return True
    assert answer.json()["error"]["code"] == 20003, answer.text
    return False


def _call(product: Product, task: int, verb: str, key: str | None) -> httpx.Response:
    part = "" if key is None else f"/subtasks/{subtask_id(product, task, key)}"
    return product.http.post(f"{_PATH}/{task}{part}/{verb}")


def subtask_id(product: Product, task: int, key: str) -> int:
    """Return the id of the subtask with that key."""
    [row] = product.rows("SELECT id FROM subtask_specs WHERE task_id = :task AND key = :key", task=task, key=key)
    return int(row["id"])


def state_of(product: Product, task: int, key: str) -> str:
    """Return a subtask's state."""
    [row] = product.rows("SELECT state FROM subtasks WHERE id = :id", id=subtask_id(product, task, key))
    return str(row["state"])


def after_beats(product: Product) -> None:
    """Wait until the worker has beaten a few times more: by then it has killed what it was going to kill."""
    beat = "SELECT beat_at FROM workers WHERE stopped_at IS NULL ORDER BY beat_at DESC LIMIT 1"
    for _ in range(3):
        [before] = product.rows(beat)
        eventually(lambda before=before: product.rows(beat) != [before], what="the worker beats")  # type: ignore[misc]
