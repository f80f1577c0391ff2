"""Operators at work on stored tasks: verbs, the courses in which a task can stand, and what a verb may have changed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, RowMapping, text

from schema.database import transaction
from schema.errors import TaskserverError
from schema.transitions import cancellations
from schema.transitions.orders import Order
from taskserver.control import SUBTASK_VERBS, TASK_VERBS
from tests.factories import StoredTask, execute, make_task, many

OPERATOR = Order("operator", account="0", reason="because", trace_id="0123456789abcdef")
_TABLES = (
    "tasks",
    "task_progress",
    "subtasks",
    "subtask_attempts",
    "subtask_results",
    "operations",
    "sync_history",
    "idempotency_keys",
)


def use(task: StoredTask, verb: str, key: str | None = None, *, order: Order = OPERATOR) -> None:
    """Use a verb on the task, or on one of its subtasks, and commit."""
    with transaction(task.engine) as connection:
        use_within(connection, task, verb, key, order=order)


def use_within(
    connection: Connection, task: StoredTask, verb: str, key: str | None = None, *, order: Order = OPERATOR
) -> None:
    """Use a verb in the caller's transaction."""
    if key is None:
        TASK_VERBS[verb](connection, task.id, order)
    else:
        SUBTASK_VERBS[verb](connection, task.id, task.ids[key], order)


def expire(task: StoredTask) -> None:
    """Let the deadline come, and the dispatcher's look after it."""
    execute(task.engine, "UPDATE tasks SET deadline_at = now(), deadline_seconds = 60 WHERE id = :id", id=task.id)
    with transaction(task.engine) as connection:
        assert cancellations.overdue_tasks(connection, limit=10) == [task.id]
    with transaction(task.engine) as connection:
        cancellations.expire(connection, task.id)


def audit(task: StoredTask) -> list[RowMapping]:
    """Return the operations on the task, oldest first."""
    return many(task.engine, "SELECT * FROM operations WHERE task_id = :id ORDER BY id", id=task.id)


def dump(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Return every row that a verb could have changed."""
    return {
        table: [dict(row) for row in many(engine, f"SELECT * FROM {table} AS r ORDER BY r::text")] for table in _TABLES
    }


@contextmanager
def refused(
    engine: Engine, error: type[TaskserverError], *, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Check that what is done within is refused with exactly this error and changes nothing."""
    before = dump(engine)
    with pytest.raises(error, match=match) as caught:
        yield caught
    assert type(caught.value) is error
    assert dump(engine) == before


@contextmanager
def heard(engine: Engine, channel: str) -> Iterator[list[str]]:
    """Collect what is notified on the channel meanwhile; complete after the block."""
    payloads: list[str] = []
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener:
        listener.exec_driver_sql(f"LISTEN {channel}")
        yield payloads
        listener.execute(text("SELECT pg_notify(:channel, 'end')"), {"channel": channel})
        for notice in listener.connection.driver_connection.notifies(timeout=5):  # type: ignore[union-attr]
            if notice.payload == "end":
                break
            payloads.append(notice.payload)
        listener.exec_driver_sql("UNLISTEN *")


# Seven subtasks without edges but one, so that as many as can be are in a state of their own.
_WIDE: Mapping[str, tuple[str, ...]] = {
    "waiting": (),
    "released": (),
    "running": (),
    "canceling": (),
    "allowed": (),
    "failing": (),
    "successful": (),
    "follower": ("failing",),
}
_OPTIONS = {"allowed": {"allow_failure": True}} | {key: {"has_rollback": True} for key in _WIDE if key != "allowed"}


def _created(engine: Engine) -> StoredTask:
    return make_task(engine, _WIDE, _OPTIONS)


def _running(engine: Engine, *, failing: bool = True) -> StoredTask:
    task = _created(engine)
    task.begin("running", "canceling")
    task.run("successful")
    task.run("allowed", verdict="FAILED")
    if failing:
        task.run("failing", verdict="FAILED")
    use(task, "cancel", "canceling")
    return task


def _going(engine: Engine) -> StoredTask:
    task = _running(engine, failing=False)
    task.release("released")
    return task


def _paused(engine: Engine) -> StoredTask:
    task = _running(engine)
    use(task, "pause")
    return task


def _stopping(engine: Engine) -> StoredTask:
    task = _running(engine)
    use(task, "cancel")
    return task


def _expiring(engine: Engine) -> StoredTask:
    task = _running(engine)
    expire(task)
    return task


def _end_running(task: StoredTask) -> StoredTask:
    for row in many(
        task.engine, "SELECT d.key FROM subtasks s JOIN subtask_specs d USING (id) WHERE s.claim IS NOT NULL"
    ):
        claim = task.row(row["key"])
        task.record(task.held(row["key"]), claim=claim["claim"])
    return task


def _failed(engine: Engine) -> StoredTask:
    return _end_running(_running(engine))


def _overdue(engine: Engine) -> StoredTask:
    return _end_running(_expiring(engine))


def _revoked(engine: Engine) -> StoredTask:
    return _end_running(_stopping(engine))


def _abandoned(engine: Engine) -> StoredTask:
    task = _failed(engine)
    use(task, "abandon")
    return task


def _successful(engine: Engine) -> StoredTask:
    task = make_task(engine, {"allowed": (), "successful": ("allowed",)}, _OPTIONS)
    task.run("allowed", verdict="FAILED")
    task.run("successful")
    return task


def _undoing(engine: Engine) -> StoredTask:
    task = _failed(engine)
    use(task, "rollback")
    task.run("failing", verdict="FAILED")
    task.begin("running", "canceling")
    use(task, "cancel", "canceling")
    task.release("successful")
    return task


def _undoing_paused(engine: Engine) -> StoredTask:
    task = _undoing(engine)
    use(task, "pause")
    return task


def _undoing_stopped(engine: Engine) -> StoredTask:
    task = _undoing(engine)
    use(task, "cancel")
    return task


def _undo_failed(engine: Engine) -> StoredTask:
    task = _undoing(engine)
    task.record(task.claim("successful"))
    return _end_running(task)


def _rolled_back(engine: Engine) -> StoredTask:
    task = _undo_failed(engine)
    use(task, "rollback")
    for key, state in task.states().items():
        if state == "PENDING" and task.row(key)["operation"] == "ROLLBACK" and task.row(key)["gate"] is None:
            task.run(key)
    return task


# By name, with the task's state and its course: None, what stops it, or "undoing".
COURSES: Mapping[str, tuple[Callable[[Engine], StoredTask], str, frozenset[str]]] = {
    "created": (_created, "CREATED", frozenset()),
    "going": (_going, "RUNNING", frozenset()),
    "failing": (_running, "RUNNING", frozenset()),
    "paused": (_paused, "SUSPENDED", frozenset()),
    "stopping": (_stopping, "RUNNING", frozenset({"stopping"})),
    "expiring": (_expiring, "RUNNING", frozenset({"stopping"})),
    "failed": (_failed, "FAILED", frozenset()),
    "overdue": (_overdue, "FAILED", frozenset()),
    "undoing": (_undoing, "RUNNING", frozenset({"undoing"})),
    "undoing paused": (_undoing_paused, "SUSPENDED", frozenset({"undoing"})),
    "undoing stopped": (_undoing_stopped, "RUNNING", frozenset({"undoing", "stopping"})),
    "undo failed": (_undo_failed, "FAILED", frozenset({"undoing"})),
    "revoked": (_revoked, "REVOKED", frozenset()),
    "abandoned": (_abandoned, "REVOKED", frozenset()),
    "successful": (_successful, "SUCCESSFUL", frozenset()),
    "rolled back": (_rolled_back, "ROLLED_BACK", frozenset()),
}
