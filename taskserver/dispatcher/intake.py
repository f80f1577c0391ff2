"""Starting what was inserted by SQL: a thread beside the dispatcher's, which gives such tasks their subtasks or ends them.

Woken by NOTIFY from the commit of the INSERT; looks by itself every second. It takes a bounded portion in each transaction,
so that thousands of rows neither hold up the dispatcher nor what somebody else inserts in the meantime. A row that cannot be
started ends FAILED with the reason: none is ever tried for ever, and none keeps another waiting.
"""

import threading
from collections.abc import Sequence

from sqlalchemy import Connection, Engine
from structlog import get_logger

from schema.database import transaction
from schema.errors import Busy, Conflict, Invalid, NotFound, TaskserverError, TooLarge, Unavailable
from schema.identity import TaskId
from schema.limits import Limits
from schema.transitions import inserted
from schema.transitions.creation import NewTask
from schema.transitions.inserted import Expansion, InsertedTask
from taskserver.dispatcher.isolation import isolated
from taskserver.new_rows import Submitter
from taskserver.table_rows import ARGUMENT, check_argument_bytes, submission_of
from taskserver.table_tasks import TableTasks, no_template

_LOOK_SECONDS = 1.0
_OUTAGE_PAUSE_SECONDS = 0.5
_PORTION_TASKS = 25
_PORTION_SUBTASKS = 1_000
_REFUSALS = (Invalid, Conflict, NotFound)
_log = get_logger("taskserver.dispatcher")


class Intake:
    """One thread that takes inserted rows until it is stopped; any number of servers may run one."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the portion under way."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """Look now: rows were inserted. Callable from any thread."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            self._look()
            self._wake.wait(_LOOK_SECONDS)

    def _look(self) -> None:
        try:
            self.take_all()
        except Unavailable as error:
            _log.warning("a server is away", action="take", error=str(error))
            self._stopping.wait(_OUTAGE_PAUSE_SECONDS)
        except Exception:  # noqa: BLE001 - without this thread the server would start nothing that is inserted
            _log.exception("intake failed", action="take")
            self._stopping.wait(_OUTAGE_PAUSE_SECONDS)

    def take_all(self) -> None:
        """Take all rows that wait, portion by portion, but for those that somebody else holds.

        Raises:
            Unavailable: PostgreSQL is away.

        """
        held: set[TaskId] = set()
        while not self._stopping.is_set():
            with transaction(self._engine) as connection:
                tasks = inserted.inserted_tasks(connection, limit=_PORTION_TASKS, but=held)
            if not tasks:
                return
            held |= self._take(tasks)

    def _take(self, tasks: Sequence[TaskId]) -> set[TaskId]:
        """Take some rows together; a fault in one does not keep the others waiting. Return those that are held."""
        try:
            with transaction(self._engine) as connection:
                return self._expand(connection, tasks)
        except Busy:
            if len(tasks) == 1:
                return set(tasks)  # the next look tries again
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not come again for ever
            if len(tasks) == 1:
                _log.exception("row not started", action="take", task=tasks[0])
                self._give_up(tasks[0], error)
                return set(tasks)
        return {held for task in tasks for held in self._take([task])}

    def _expand(self, connection: Connection, tasks: Sequence[TaskId]) -> set[TaskId]:
        rows = inserted.lock_inserted(connection, tasks, argument_bytes=self._limits.stored_bytes)
        making = TableTasks(connection, limits=self._limits)
        together: list[Expansion] = []
        size = 0
        for row in rows:
            try:
                new = self._new_task(making, row)
                expansion = Expansion(row.id, new, inserted.find_ahead(connection, new))
            except _REFUSALS as error:  # found without an error in PostgreSQL: the transaction goes on
                _refuse(connection, row, error)
                continue
            if new.duplicate_key is None:
                together.append(expansion)
            else:  # at once, so that the next of the same instance finds it
                inserted.expand_inserted(connection, [expansion])
            size += len(new.subtasks)
            if size >= _PORTION_SUBTASKS:
                break
        inserted.expand_inserted(connection, together)
        return set(tasks) - {row.id for row in rows}

    def _new_task(self, making: TableTasks, row: InsertedTask) -> NewTask:
        check_argument_bytes(row.argument_bytes, self._limits)
        if row.definition is None:
            raise no_template(row.template_id, row.account)
        members = {"concurrency": row.concurrency, "callbackUrl": row.callback_url, "instanceId": row.instance_id}
        if row.on_duplicate != _DEFAULT_POLICY:
            members["onDuplicate"] = row.on_duplicate
        submission = submission_of(row.argument, row.definition, self._limits, extra=row.extra, **members)
        return making.make(submission, row.argument, Submitter(row.creator, row.account))

    def _give_up(self, task: TaskId, error: Exception) -> None:
        """End a row that the product has no answer to, or it would be tried for ever."""
        message = f"this row could not be started ({type(error).__name__}): the server's log says why; insert it again"
        with isolated(_log, action="take", task=task), transaction(self._engine) as connection:
            inserted.refuse_inserted(connection, task, kind="internal", message=message)


_DEFAULT_POLICY = "reject"  # the column's default, so that the definition's own counts


def _refuse(connection: Connection, row: InsertedTask, error: TaskserverError) -> None:
    inserted.refuse_inserted(connection, row.id, kind=_kind_of(row, error), message=error.message)
    _log.info("row refused", action="take", task=row.id, error=error.message)


def _kind_of(row: InsertedTask, error: TaskserverError) -> str:
    match error:
        case Conflict():
            return "duplicate"
        case TooLarge():
            return "too_large"
        case _ if row.definition is None:
            return "no_definition"
        case _ if (error.target or "").startswith(ARGUMENT):
            return "bad_argument"
        case _:
            return "bad_definition"
