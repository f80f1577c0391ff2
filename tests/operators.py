"""Operators at work on stored tasks: verbs, the courses in which a task can stand, and what a verb may have changed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, Engine, RowMapping, text

from schema.database import transaction
from schema.errors import DuplicateInstance, RollbackProhibited, TaskserverError, WrongState
from schema.identity import SubtaskId, TaskId
from schema.transitions import cancellations
from schema.transitions.orders import Order
from taskserver.control import SUBTASK_VERBS, TASK_VERBS, Command
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


class Way(NamedTuple):
    """What distinguishes a use from another that is much the same on something else."""

    name: str
    hindrance: str
    course: str


@dataclass(frozen=True)
class Use:
    """A verb on a task or on one of its subtasks, the error with which it is to be refused, if it is, and for what."""

    command: Command
    error: type[TaskserverError] | None = None
    hindrance: str = ""
    course: str = ""  # of what it is used on

    @property
    def way(self) -> "Way":
        return Way(self.name, self.hindrance, self.course)

    @property
    def name(self) -> str:
        return f"{self.command.verb} {'task' if self.command.subtask is None else 'subtask'}"


_LIVE = {"CREATED", "RUNNING", "SUSPENDED"}
_GOING = {"RUNNING", "SUSPENDED", "FAILED"}
_TASKS = """
    SELECT t.id, t.state, p.stopping IS NOT NULL AND t.state <> 'FAILED' AS stopping, p.undoing IS NOT NULL AS undoing,
        p.undoing IS NOT NULL AND coalesce(p.turning, 0) > 0 AS turning, p.failed - p.allowed AS failing,
        t.prohibit_rollback OR EXISTS (
            SELECT FROM subtasks s JOIN subtask_specs d USING (id)
            WHERE s.task_id = t.id AND d.prohibit_rollback AND s.attempted_at IS NOT NULL
        ) AS prohibited,
        EXISTS (
            SELECT FROM tasks h WHERE h.duplicate_key IS NOT NULL AND h.id <> t.id
                AND (h.account, h.task_type, h.instance_id, h.extra) = (t.account, t.task_type, t.instance_id, t.extra)
        ) AS held
    FROM tasks t JOIN task_progress p ON p.id = t.id ORDER BY t.id
"""
_SUBTASKS = """
    SELECT s.id, s.task_id, s.state, s.allow_failure, d.has_rollback AND s.attempted_at IS NOT NULL AS handled,
        s.state <> 'PENDING' OR (s.operation = 'ROLLBACK' AND s.gate IS DISTINCT FROM 'undone') AS left,
        ARRAY(SELECT upstream_id FROM subtask_edges WHERE downstream_id = s.id) AS upstreams,
        ARRAY(SELECT downstream_id FROM subtask_edges WHERE upstream_id = s.id) AS downstreams, s.allow_failure AND EXISTS (
        SELECT FROM subtask_edges e JOIN subtasks f ON f.id = e.downstream_id
        WHERE e.upstream_id = s.id AND f.state IN ('RUNNING', 'CANCELING')
    ) AS busy
    FROM subtasks s JOIN subtask_specs d USING (id) ORDER BY s.id
"""


def uses(engine: Engine) -> list[Use]:
    """Return every use of a verb on what is stored, with what must come of it: judged by the tables and `docs/states.md`."""
    tasks = {row["id"]: row for row in many(engine, _TASKS)}
    subtasks = {row["id"]: row for row in many(engine, _SUBTASKS)}
    on_tasks = [
        Use(Command(verb, TaskId(id_)), *_against(verb, task), _course(task))
        for id_, task in tasks.items()
        for verb in TASK_VERBS
    ]
    parts = [(tasks[part["task_id"]], part) for part in subtasks.values()]
    on_subtasks = [
        Use(
            Command(verb, TaskId(task["id"]), SubtaskId(part["id"])),
            *_against_part(verb, task, part, subtasks),
            _course(task, part),
        )
        for task, part in parts
        for verb in SUBTASK_VERBS
    ]
    return on_tasks + on_subtasks


# What a use that is taken may make of the task or subtask, as the audit tells it.
AFTER: Mapping[str, set[str]] = {
    "retry task": {"RUNNING"},
    "rollback task": {"RUNNING", "ROLLED_BACK"},
    "cancel task": {"RUNNING", "REVOKED"},
    "pause task": {"SUSPENDED"},
    "resume task": {"RUNNING"},
    "abandon task": {"REVOKED"},
    "retry subtask": {"PENDING"},
    "skip subtask": {"SUCCESSFUL", "PENDING"},
    "cancel subtask": {"CANCELING"},
}

Against = tuple[type[TaskserverError] | None, str]
_STATES = {
    "retry": {"FAILED"},
    "rollback": {"FAILED"},
    "cancel": _LIVE,
    "pause": {"CREATED", "RUNNING"},
    "resume": {"SUSPENDED"},
    "abandon": {"FAILED"},
}
_HINDRANCES: Mapping[str, tuple[str, ...]] = {"retry": ("undoing",), "cancel": ("stopping",), "pause": ("stopping",)}
_PART_STATES = {"retry": "FAILED", "skip": "FAILED", "cancel": "RUNNING"}
_PART_HINDRANCES: Mapping[str, tuple[str, ...]] = {
    "retry": ("stopping", "undoing", "busy"),
    "skip": ("stopping", "turning"),
}


def _course(task: RowMapping, part: RowMapping | None = None) -> str:
    if task["undoing"]:
        return "backwards"
    return "allowed" if part is not None and part["allow_failure"] else ""


def _against(verb: str, task: RowMapping) -> Against:
    if task["state"] not in _STATES[verb]:
        return WrongState, "state"
    for hindrance in _HINDRANCES.get(verb, ()):
        if task[hindrance]:
            return WrongState, hindrance
    if verb == "rollback" and task["prohibited"] and not task["undoing"]:
        return RollbackProhibited, "prohibited"
    return (DuplicateInstance, "held") if verb in {"retry", "rollback"} and task["held"] else (None, "")


def _against_part(verb: str, task: RowMapping, part: RowMapping, subtasks: Mapping[int, RowMapping]) -> Against:
    if part["state"] != _PART_STATES[verb] or (verb != "cancel" and task["state"] not in _GOING):
        return WrongState, "state"
    for hindrance in _PART_HINDRANCES.get(verb, ()):
        if {**task, **part}[hindrance]:
            return WrongState, hindrance
    others_fail = task["failing"] > (not part["allow_failure"])
    goes_on = _frees_a_step(part, subtasks) if task["undoing"] else not others_fail
    reopens = task["state"] == "FAILED" and (verb == "retry" or goes_on)
    return (DuplicateInstance, "held") if reopens and task["held"] else (None, "")


def _frees_a_step(step: RowMapping, subtasks: Mapping[int, RowMapping]) -> bool:
    """Tell whether, once a failed step counts as undone, another can be undone by its handler, or all is undone."""
    left = {one["id"] for one in subtasks.values() if one["left"] and one["task_id"] == step["task_id"]}
    undone = [step]
    while undone:
        last = undone.pop()
        left.discard(last["id"])
        for upstream in (subtasks[one] for one in last["upstreams"]):
            if upstream["id"] in left and left.isdisjoint(upstream["downstreams"]):
                if upstream["handled"]:
                    return True
                undone.append(upstream)
    return not left


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
