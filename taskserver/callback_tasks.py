"""Callback tasks: a list of elements for a queue, that is for a definition with a callback, to be posted there in their order.

Each element is a subtask of the kind `callback.element`, after the one before it. The rows are the truth: where to comes from
the version of the definition that the task points at, what is sent along from the task's header, so that neither is repeated with
each element or shown among its arguments. The receiver's answer is the result of an element that it took (`subtask_results`),
and stands on the attempt of one that it refused (`subtask_attempts.result`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import Connection

from schema.documents.definition import Callback, Definition
from schema.documents.problems import MAX_REPORTED, Problems
from schema.errors import DuplicateInstance, Invalid, InvalidArgument, TooLarge
from schema.identity import TaskId
from schema.instances import duplicate_key
from schema.limits import Limits
from schema.redaction import find_named
from schema.references import Literal, quoted, recognise
from schema.storable import check_stored_size, find_unstorable
from schema.transitions import creation
from schema.transitions.creation import NewSubtask, NewTask
from schema.wire import DEFAULT_QUEUE
from taskserver.callback_header import completed_header, request_id, stored_header
from taskserver.definitions import Resolver
from taskserver.new_rows import Submitter
from taskserver.submission import MAX_BATCH, Prepared, Stored

__all__ = ["CallbackTask", "element_of", "prepare_callback_tasks", "stored_header"]

KIND = "callback.element"
DEFAULT_TIMEOUT_SECONDS = 30.0
_ELEMENT = "data"
_PAUSE_SECONDS = 1.0  # before the second attempt, longer each time
_MOST_NAME = 200
_MOST_EXTRA = 400
_BIGINT = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class CallbackTask:
    """A task to store: its queue, what it is about, and the elements to post."""

    task_type: str
    instance_id: int
    extra: str
    data: tuple[object, ...]


def prepare_callback_tasks(
    tasks: Sequence[CallbackTask], submitter: Submitter, *, header: Mapping[str, str], limits: Limits
) -> Prepared:
    """Return what stores the tasks, all or none, each with one subtask for each of its elements.

    No tasks are right, and store nothing.

    Args:
        tasks: At most `submission.MAX_BATCH`.
        submitter: Whose they are.
        header: The request's, of which only `stored_header` is kept; it is completed with account, user and request id.
        limits: How large they may be.

    Raises:
        InvalidArgument: A task is wrong, has no elements or one that cannot be stored; `sub_errors` names each
            (`/data/3`, of several tasks `/0/data/3`). `Prepared.store` raises it for a type that is no queue.
        TooLarge: There is too much of it.

    """
    if len(tasks) > MAX_BATCH:
        raise InvalidArgument(
            f"there are {len(tasks)} tasks, at most {MAX_BATCH} are taken at once: send several calls"
        )
    problems = Problems("the tasks")
    for at, task in enumerate(tasks):
        _note_wrong(task, _place(at, tasks), problems, limits)
    problems.raise_if_any()
    _check_sizes(tasks, limits)
    kept = completed_header(header, submitter)
    sender = replace(submitter, trace_id=request_id(kept) or submitter.trace_id)
    store = partial(_store_all, tasks=tasks, submitter=sender, header=kept, limits=limits)
    return Prepared(frozenset(filter(None, (_instance(one, submitter.account, None) for one in tasks))), store)


def element_of(arguments: Mapping[str, Any]) -> Any:
    """Return the element that the stored arguments of a subtask hold."""
    element = arguments.get(_ELEMENT)
    found = recognise(element) if isinstance(element, dict) else None
    return found.value if isinstance(found, Literal) else element


def _place(at: int, tasks: Sequence[CallbackTask]) -> str:
    return f"/{at}" if len(tasks) > 1 else ""


def _note_wrong(task: CallbackTask, at: str, problems: Problems, limits: Limits) -> None:
    if not 1 <= len(task.task_type.strip()) <= _MOST_NAME or any(find_unstorable(task.task_type, depth=1)):
        problems.argument(
            f"{at}/task_type", "names no definition: give the name of one with a callback", task.task_type
        )
    if task.instance_id not in _BIGINT:
        problems.argument(f"{at}/bk_inst_id", "is no whole number of 64 bits", task.instance_id)
    if len(task.extra) > _MOST_EXTRA or any(find_unstorable(task.extra, depth=1)):
        problems.argument(f"{at}/extra", f"is longer than {_MOST_EXTRA} characters, or cannot be stored", task.extra)
    if not task.data:
        problems.argument(f"{at}/data", "has no element: give at least one, each is posted by itself")
    if len(task.data) > limits.subtasks:
        most = f"{limits.subtasks} (TASKSERVER_MAX_SUBTASKS)"
        problems.argument(f"{at}/data", f"has {len(task.data)} elements, at most {most} are taken: make several tasks")
        return
    for wrong in islice(find_unstorable(list(task.data), depth=limits.depth), MAX_REPORTED + 1):
        problems.argument(f"{at}/data{wrong.pointer}", wrong.message, wrong.value)


def _check_sizes(tasks: Sequence[CallbackTask], limits: Limits) -> None:
    """Refuse elements that are too large, each by itself or all together."""
    total = 0
    for at, task in enumerate(tasks):
        for index, element in enumerate(task.data):
            field = f"{_place(at, tasks)}/data/{index}"
            total += check_stored_size(_arguments(element), field, f"element {field}", limits)
            if total > limits.expanded_bytes:
                raise TooLarge(
                    f"the elements take more than {limits.expanded_bytes} bytes together: send them in several calls",
                    target=field,
                )


def _arguments(element: object) -> dict[str, Any]:
    return {_ELEMENT: quoted(element)}


def _instance(task: CallbackTask, account: str, policy: str | None) -> str | None:
    return duplicate_key(
        account=account,
        task_type=task.task_type.strip(),
        instance_id=task.instance_id,
        extra=task.extra,
        on_duplicate=policy or "reject",
    )


def _store_all(
    connection: Connection,
    *,
    tasks: Sequence[CallbackTask],
    submitter: Submitter,
    header: dict[str, str],
    limits: Limits,
) -> list[Stored]:
    resolver = Resolver(connection, submitter.account, limits=limits)
    # In the order of their instances, so that two calls do not wait for each other; of one instance, as they came.
    in_order = sorted(range(len(tasks)), key=lambda at: _order(tasks[at]))
    stored: dict[int, Stored] = {}
    for at in in_order:
        place = _place(at, tasks)
        try:
            stored[at] = _store(connection, _new_task(tasks[at], resolver, submitter, header))
        except (Invalid, DuplicateInstance) as error:
            which = f"task {at}: " if place else ""
            raise type(error)(f"{which}{error.message}", target=error.target, sub_errors=error.sub_errors) from error
    return [stored[at] for at in range(len(tasks))]


def _order(task: CallbackTask) -> tuple[str, int, str]:
    return task.task_type.strip(), task.instance_id, task.extra


def _store(connection: Connection, new: NewTask) -> Stored:
    try:
        return Stored(creation.create_task(connection, new), is_new=True)
    except DuplicateInstance as error:  # found without an error in PostgreSQL: the transaction goes on
        if new.on_duplicate != "return" or error.target is None:
            raise
        return Stored(TaskId(int(error.target)), is_new=False)


def _new_task(task: CallbackTask, resolver: Resolver, submitter: Submitter, header: dict[str, str]) -> NewTask:
    name = task.task_type.strip()
    version, definition = resolver.newest(name)
    if definition.callback is None:
        raise InvalidArgument(
            f"definition {name!r} has no callback, so that it takes submissions and no data elements: put it with a callback",
            target="/task_type",
        )
    return NewTask(
        name=name,
        account=submitter.account,
        creator=submitter.name,
        subtasks=list(_subtasks(task.data, definition.callback, definition.queue or DEFAULT_QUEUE)),
        arguments=_hidden_values(task.data, definition),
        task_type=name,
        definition_id=version,
        instance_id=task.instance_id,
        extra=task.extra,
        on_duplicate=definition.on_duplicate or "reject",
        duplicate_key=_instance(task, submitter.account, definition.on_duplicate),
        header=header,
        trace_id=submitter.trace_id,
        traceparent=submitter.traceparent,
    )


def _subtasks(data: Sequence[object], callback: Callback, queue: str) -> Iterator[NewSubtask]:
    for index, element in enumerate(data):
        yield NewSubtask(
            series_id=index,
            key=f"{_ELEMENT}[{index}]",
            template_key=_ELEMENT,
            parallel_idx=index,
            kind=KIND,
            upstreams=(index - 1,) if index else (),
            queue=queue,
            arguments=_arguments(element),
            timeout=callback.timeout_seconds or DEFAULT_TIMEOUT_SECONDS,
            max_attempts=callback.attempts,
            backoff_seconds=_PAUSE_SECONDS,
        )


def _hidden_values(data: Sequence[object], definition: Definition) -> dict[str, Any]:
    """Return what the definition hides in the elements: in the task's arguments, it is hidden wherever else it turns up."""
    hidden: dict[str, list[object]] = {}
    for element in data:
        for location, value in find_named(element, definition.redact):
            hidden.setdefault(str(location[-1]), []).append(value)
    return hidden
