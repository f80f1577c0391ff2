"""A task and a subtask as handles: the blocking face of `async_tasks` and `async_subtasks`, where every call is documented.

Handles may be shared by threads. What `changes` and `follow_log` return belongs to one.
"""

from taskserver.client.async_subtasks import AsyncSubtaskHandle
from taskserver.client.async_tasks import AsyncTask
from taskserver.client.blocking import Blocking, blocking, iterating


class SubtaskHandle(Blocking[AsyncSubtaskHandle]):
    """A subtask on the server, by its key or its id. Every call raises `NotFound` where the task has no such subtask.

    The first call by a key asks for the id, which is cheap; an id saves that.
    """

    detail = blocking(AsyncSubtaskHandle.detail)
    log = blocking(AsyncSubtaskHandle.log)
    follow_log = iterating(AsyncSubtaskHandle.follow_log)
    retry = blocking(AsyncSubtaskHandle.retry)
    skip = blocking(AsyncSubtaskHandle.skip)
    cancel = blocking(AsyncSubtaskHandle.cancel)
    signal = blocking(AsyncSubtaskHandle.signal)


class Task(Blocking[AsyncTask]):
    """A task on the server. Every call raises `ServerUnreachable` or `ServerRefused` when it fails.

    Example::

        status = task.wait(timeout=60)
        if not status.is_successful:
            task.retry(reason="the disk was full")
    """

    status = blocking(AsyncTask.status)
    detail = blocking(AsyncTask.detail)
    plan = blocking(AsyncTask.plan)
    diagnosis = blocking(AsyncTask.diagnosis)
    operations = blocking(AsyncTask.operations)
    wait = blocking(AsyncTask.wait)
    changes = iterating(AsyncTask.changes)
    retry = blocking(AsyncTask.retry)
    rollback = blocking(AsyncTask.rollback)
    cancel = blocking(AsyncTask.cancel)
    pause = blocking(AsyncTask.pause)
    resume = blocking(AsyncTask.resume)
    abandon = blocking(AsyncTask.abandon)

    @property
    def id(self) -> int:
        """The task's number."""
        return self._core.id

    @property
    def task_id(self) -> str | None:
        """The id of 32 hex digits; None where the handle was made from the number alone."""
        return self._core.task_id

    def subtask(self, key_or_id: str | int) -> SubtaskHandle:
        """Return a handle of a subtask, by its key or its id; it makes no call."""
        return SubtaskHandle(self._core.subtask(key_or_id))
