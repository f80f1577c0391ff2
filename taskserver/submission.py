"""Submitting: validate, expand, store in one transaction; after its commit the dispatcher publishes.

Nothing here touches the broker. A task that is committed will run, whatever dies in between.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Engine

from schema.callers_transaction import part_of_transaction
from schema.database import transaction
from schema.documents.specification import Submission, parse_submission
from schema.errors import DuplicateInstance, Invalid, InvalidArgument, TooLarge
from schema.identity import TaskId
from schema.instances import duplicate_key
from schema.kinds import KindInfo, OnWorkerLost
from schema.limits import DEFAULT_LIMITS, SUBMISSION_BYTES, Limits
from schema.roundtrip import AnyConnection
from schema.storable import find_unstorable, stored_size
from schema.transitions import creation
from schema.transitions.creation import NewSubtask, NewTask
from schema.transitions.idempotency import IdempotentCall, claim_key, note_answer
from taskserver.definitions import Resolved, Resolver, resolve
from taskserver.expansion import ExpandedSubtask, ExpandedTask, expand
from taskserver.idempotency import idempotent_call
from taskserver.queries.kinds import load_kinds

MAX_BATCH = 1000
_T = TypeVar("_T")
_DEFAULT_NAME = "task"
_INLINE = "inline"
_DEFAULT_USER = "application"
_SUBMIT = "submit"
_SUBMIT_BATCH = "submit a batch"


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who submits, into which account, and the trace of the request."""

    name: str
    account: str
    trace_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A task that a submission led to, and whether it is new: it is not where an earlier one is answered."""

    task: TaskId
    is_new: bool


def submit(
    connection: object,
    spec: Mapping[str, Any],
    account: str = "0",
    user: str = _DEFAULT_USER,
    *,
    idempotency_key: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> TaskId:
    """Store a task in the caller's transaction: rolled back with it, published after its commit.

    With a spec that is refused nothing is stored, and the transaction can go on::

        with engine.begin() as connection:
            connection.execute(text("INSERT INTO hosts (name) VALUES ('db1')"))
            submit(connection, {"definition": "prepare_host", "instanceId": 42}, user="inventory")

    Args:
        connection: A SQLAlchemy Connection or Session, or a psycopg.Connection, to the database of the task server.
        spec: The submission, as it would be posted.
        account: Whose task it is.
        user: Who is noted as its creator.
        idempotency_key: Names this submission: made again with the same key it leads to the same task.
        limits: How large it may be; `Settings.load().limits` where the defaults have been changed.

    Returns:
        The task's id: that of an earlier task where `onDuplicate` or the idempotency key says so.

    Raises:
        TypeError: The connection is none that can be used.
        InvalidArgument, InvalidGraph, TooLarge: The spec is wrong, or the connection has no transaction and begins none.
        DuplicateInstance: An unsettled task holds the instance.
        IdempotencyKeyReused: The key was used with another spec.
        Unavailable: PostgreSQL is away, or another transaction was in the way.

    """
    for what, name in (("account", account), ("user", user)):
        if not isinstance(name, str) or not name or any(find_unstorable(name, depth=1)):
            raise InvalidArgument(f"{what} is {name!r}: give a text that is not empty and holds no NUL", target=what)
    document = dict(spec) if isinstance(spec, Mapping) else spec
    submission = parse_submission(document, limits=limits)
    if stored_size(document) > limits.submission_bytes:
        most = f"{limits.submission_bytes} bytes ({SUBMISSION_BYTES})"
        raise TooLarge(f"the spec takes more than {most}: submit less at once, or keep the data elsewhere")
    call = idempotent_call(idempotency_key, account=account, scope=_SUBMIT, document=document)
    with part_of_transaction(connection) as usable:
        store = partial(_store_one, usable, submission, Submitter(user, account), limits)
        return _once(usable, call, store)[0].task


def submit_document(
    engine: Engine, document: object, submitter: Submitter, *, limits: Limits, idempotency_key: str | None = None
) -> Stored:
    """Store the task that a JSON document describes.

    Raises:
        InvalidArgument, InvalidGraph, TooLarge: The document is wrong; nothing was stored.
        DuplicateInstance: An unsettled task holds the instance.
        IdempotencyKeyReused: The key was used with another document.
        Unavailable: PostgreSQL is away. Whether the task was stored is unknown.

    """
    submission = parse_submission(document, limits=limits)
    call = idempotent_call(idempotency_key, account=submitter.account, scope=_SUBMIT, document=document)
    with transaction(engine) as connection:
        return _once(connection, call, partial(_store_one, connection, submission, submitter, limits))[0]


def submit_batch(
    engine: Engine, documents: object, submitter: Submitter, *, limits: Limits, idempotency_key: str | None = None
) -> list[Stored]:
    """Store the tasks that a list of JSON documents describes, all or none; return them in the same order.

    Raises:
        InvalidArgument: It is not a list of 1 to `MAX_BATCH` documents.
        Invalid, DuplicateInstance: One of them is refused; the fields of `sub_errors` begin with its place.
        IdempotencyKeyReused: The key was used with another batch.

    """
    if not isinstance(documents, list) or not 1 <= len(documents) <= MAX_BATCH:
        raise InvalidArgument(f"a batch is a JSON array of 1 to {MAX_BATCH} submissions; send more in several batches")
    submissions = [_located(at, partial(parse_submission, one, limits=limits)) for at, one in enumerate(documents)]
    call = idempotent_call(idempotency_key, account=submitter.account, scope=_SUBMIT_BATCH, document=documents)
    with transaction(engine) as connection:
        return _once(connection, call, partial(_store_all, connection, submissions, submitter, limits))


def _once(connection: AnyConnection, call: IdempotentCall | None, store: Callable[[], list[Stored]]) -> list[Stored]:
    """Store, unless the same call has been made before: then return what it stored."""
    if call is None:
        return store()
    earlier = claim_key(connection, call)
    if earlier is not None:
        return [Stored(TaskId(task), is_new=False) for task in earlier["tasks"]]
    stored = store()
    note_answer(connection, call, {"tasks": [one.task for one in stored]})
    return stored


def _store_one(connection: AnyConnection, submission: Submission, submitter: Submitter, limits: Limits) -> list[Stored]:
    resolved = resolve(connection, submission, submitter.account, limits=limits)
    kinds = load_kinds(connection, _kinds_of(resolved.submission))
    return [_store(connection, resolved, submitter, kinds, limits)]


def _store_all(
    connection: AnyConnection, submissions: Sequence[Submission], submitter: Submitter, limits: Limits
) -> list[Stored]:
    resolver = Resolver(connection, submitter.account, limits=limits)
    resolved = [_located(at, partial(resolver.resolve, one)) for at, one in enumerate(submissions)]
    kinds = load_kinds(connection, {name for one in resolved for name in _kinds_of(one.submission)})
    # In the order of their instances, so that two batches do not wait for each other; of one instance, as they came.
    in_order = sorted(range(len(resolved)), key=lambda at: _instance(resolved[at].submission))
    stored = {at: _located(at, partial(_store, connection, resolved[at], submitter, kinds, limits)) for at in in_order}
    return [stored[at] for at in range(len(resolved))]


def _instance(submission: Submission) -> tuple[str, int, str]:
    return submission.definition or _INLINE, submission.instance_id or 0, submission.extra


def _located(at: int, step: Callable[[], _T]) -> _T:
    """Take a step of one submission of a batch; an error says which one."""
    try:
        return step()
    except (Invalid, DuplicateInstance) as error:
        located = tuple(replace(one, field=f"/{at}{one.field}") for one in error.sub_errors)
        target = f"/{at}{error.target}" if (error.target or "").startswith("/") else error.target
        raise type(error)(f"submission {at}: {error.message}", target=target, sub_errors=located) from error


def _kinds_of(submission: Submission) -> set[str]:
    return {one.kind for one in submission.subtasks or () if one.kind is not None}


def _store(
    connection: AnyConnection, resolved: Resolved, submitter: Submitter, kinds: Mapping[str, KindInfo], limits: Limits
) -> Stored:
    expanded = expand(resolved.submission, kinds=kinds, limits=limits)
    new = _new_task(expanded, resolved.definition_id, submitter, kinds)
    try:
        task = creation.create_task(connection, new)
    except DuplicateInstance as error:  # found without an error in PostgreSQL: the transaction goes on
        if new.on_duplicate != "return" or error.target is None:
            raise
        return Stored(TaskId(int(error.target)), is_new=False)
    return Stored(task, is_new=True)


def _new_task(
    expanded: ExpandedTask, definition_id: int | None, submitter: Submitter, kinds: Mapping[str, KindInfo]
) -> NewTask:
    given = expanded.submission
    task_type = given.definition or _INLINE
    on_duplicate = given.on_duplicate or "reject"
    return NewTask(
        name=given.name or given.definition or _DEFAULT_NAME,
        account=submitter.account,
        creator=submitter.name,
        subtasks=[_new_subtask(one, kinds) for one in expanded.subtasks],
        arguments=given.arguments,
        type=given.type,
        task_type=task_type,
        definition_id=definition_id,
        instance_id=given.instance_id,
        extra=given.extra,
        on_duplicate=on_duplicate,
        duplicate_key=duplicate_key(
            account=submitter.account,
            task_type=task_type,
            instance_id=given.instance_id,
            extra=given.extra,
            on_duplicate=on_duplicate,
        ),
        integration_id=given.integration_id,
        user_id=given.user_id,
        client_id=given.client_id,
        account_id=given.account_id,
        template_id=given.template_id,
        biz_id=given.biz_id,
        cluster=None if given.cluster is None else given.cluster.model_dump(by_alias=True, exclude_none=True),
        tenant=None if given.tenant is None else given.tenant.model_dump(by_alias=True, exclude_none=True),
        host_id=given.host_id,
        priority=given.priority,
        concurrency=expanded.concurrency,
        prohibit_rollback=given.prohibit_rollback,
        callback_url=None if given.callback_url is None else str(given.callback_url),
        deadline_seconds=given.deadline_seconds,
        start_at=given.start_at,
        trace_id=submitter.trace_id,
        traceparent=submitter.traceparent,
    )


def _new_subtask(expanded: ExpandedSubtask, kinds: Mapping[str, KindInfo]) -> NewSubtask:
    return NewSubtask(
        series_id=expanded.series_id,
        key=expanded.key,
        kind=expanded.kind,
        upstreams=expanded.upstreams,
        queue=expanded.queue,
        template_key=expanded.template_key,
        name=None if expanded.name == expanded.key else expanded.name,
        description=None if expanded.description == expanded.key else expanded.description,
        arguments=expanded.arguments,
        from_keys=expanded.references,
        parallel_idx=expanded.parallel_idx,
        timeout=expanded.timeout,
        max_attempts=expanded.max_attempts,
        backoff_seconds=expanded.backoff_seconds,
        isolated=expanded.isolated,
        allow_failure=expanded.allow_failure,
        has_rollback=expanded.has_rollback,
        prohibit_rollback=expanded.prohibit_rollback,
        lost_is_failure=kinds[expanded.kind].on_worker_lost is OnWorkerLost.FAIL,
    )
