"""Going on with verbs that turn many subtasks: the next portion, in a dispatcher's transaction. The first was the verb's own."""

from sqlalchemy import Connection

from schema.identity import TaskId
from schema.transitions import progress, retries, rollbacks, settlement


def go_on(connection: Connection, task: TaskId) -> bool:
    """Turn the next portion of a task in which a verb is under way; tell whether something of it is left to do here.

    Once all are turned the task goes on, or settles if that was all. Any number of dispatchers may do it: one that finds
    another at work leaves it to that one.

    Raises:
        NotFound: The task has been deleted.
        Busy: Somebody holds it.

    """
    if not progress.try_dispatch_locks(connection, [task]):
        return False
    before = progress.lock(connection, task)
    if before.turning is None:
        return False  # it was cancelled, or another dispatcher has done it
    if before.undoing is None:
        retries.turn(connection, before, below=before.turning)
    else:
        rollbacks.go_on(connection, task, below=before.turning)
    after = progress.read(connection, task)
    if after.turning is not None:
        return True
    if settlement.conclude(connection, before=before, after=after) is None:
        progress.wake_dispatcher(connection, task)
    return False
