"""What operators do to tasks: each verb in one transaction, by name, for the API and whatever else speaks for an operator.

Knows no SQL: the moves are in `schema.transitions`. A verb that comes again with its idempotency key does nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine

from schema.database import transaction
from schema.errors import Busy, TaskserverError, Unavailable
from schema.identity import SubtaskId, TaskId
from schema.transitions import cancellations, holds, idempotency, retries, rollbacks, skips
from schema.transitions.idempotency import IdempotentCall
from schema.transitions.orders import Order
from schema.transitions.patience import waiting_a_moment_only

TaskVerb = Callable[[Connection, TaskId, Order], None]
SubtaskVerb = Callable[[Connection, TaskId, SubtaskId, Order], None]
Choice = Callable[[Connection], Sequence[TaskId]]

TASK_VERBS: Mapping[str, TaskVerb] = {
    "retry": retries.retry_task,
    "rollback": rollbacks.rollback,
    "cancel": cancellations.cancel_task,
    "pause": holds.pause,
    "resume": holds.resume,
    "abandon": cancellations.abandon,
}
SUBTASK_VERBS: Mapping[str, SubtaskVerb] = {
    "retry": retries.retry_subtask,
    "skip": skips.skip_subtask,
    "cancel": cancellations.cancel_subtask,
}


@dataclass(frozen=True, slots=True)
class Command:
    """A verb, and the task or subtask that it is for."""

    verb: str
    task: TaskId
    subtask: SubtaskId | None = None

    @property
    def scope(self) -> str:
        """Name the call, for its idempotency key."""
        where = f"task {self.task}" if self.subtask is None else f"task {self.task} subtask {self.subtask}"
        return f"{self.verb} {where}"

    def carry_out(self, connection: Connection, order: Order) -> None:
        """Move what is to be moved."""
        if self.subtask is None:
            TASK_VERBS[self.verb](connection, self.task, order)
        else:
            SUBTASK_VERBS[self.verb](connection, self.task, self.subtask, order)


def operate(engine: Engine, command: Command, order: Order, *, call: IdempotentCall | None = None) -> None:
    """Use a verb; once, however often it comes with the same key.

    Raises:
        NotFound: The account has no such task, or the task no such subtask.
        WrongState: The task or subtask is not in a state that allows the verb; nothing was changed.
        RollbackProhibited: What has begun must not be undone.
        DuplicateInstance: Another task holds the instance by now.
        IdempotencyKeyReused: The key was used for something else.
        Busy: Somebody else is about to use the key, or holds the task.
        Unavailable: PostgreSQL is away. Whether the verb was used is unknown; with a key it can be sent again.

    """
    with transaction(engine) as connection:
        if call is not None and _claim(connection, call) is not None:
            return
        command.carry_out(connection, order)
        if call is not None:
            idempotency.note_answer(connection, call, {"done": True})


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of one task of a bulk retry; `error` is None where it runs again."""

    task: TaskId
    error: Mapping[str, Any] | None = None


def retry_tasks(engine: Engine, choose: Choice, order: Order, *, call: IdempotentCall | None = None) -> list[Retried]:
    """Retry the tasks that are chosen, each in a transaction of its own; tell for each what became of it.

    With a key, a call that was cut short is gone on with when it comes again: for the tasks chosen then, each of them once.

    Raises:
        TaskserverError: As the choice does; nothing was retried, and the key is free.
        IdempotencyKeyReused: The key was used for something else.
        Unavailable: PostgreSQL is away. What was retried until then stays so.

    """
    if call is None:
        with transaction(engine) as connection:
            tasks = choose(connection)
        return [_retry(engine, task, order) for task in tasks]
    with transaction(engine) as connection:
        known = _claim(connection, call)
        if known is None:
            known = {"tasks": list(choose(connection))}
            idempotency.note_answer(connection, call, known)
    if "retried" in known:
        return [Retried(TaskId(one["task"]), one["error"]) for one in known["retried"]]
    retried = [_retry(engine, TaskId(one), order, call=_part(call, one)) for one in known["tasks"]]
    answer = [{"task": one.task, "error": one.error} for one in retried]
    with transaction(engine) as connection:
        idempotency.note_answer(connection, call, {"retried": answer})
    return retried


def _part(call: IdempotentCall, task: int) -> IdempotentCall:
    """Return what one task of the call is known by: a key that no caller can give, because a line end is none of its signs."""
    return replace(call, key=f"{call.key}\n{task}", scope=f"{call.scope}: task {task}")


def _claim(connection: Connection, call: IdempotentCall) -> Any | None:
    with waiting_a_moment_only(connection):
        return idempotency.claim_key(connection, call)


def _retry(engine: Engine, task: TaskId, order: Order, *, call: IdempotentCall | None = None) -> Retried:
    try:
        operate(engine, Command("retry", task), order, call=call)
    except TaskserverError as error:
        if isinstance(error, Unavailable) and not isinstance(error, Busy):
            raise
        return Retried(task, {"code": error.code, "type": type(error).__name__, "message": error.message})
    return Retried(task)
