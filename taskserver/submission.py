"""Submitting: validate, expand, store in one transaction; after its commit the dispatcher publishes.

Nothing here touches the broker. A task that is committed will run, whatever dies in between.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine, RowMapping, text

from schema.database import transaction
from schema.documents.specification import Submission, parse_submission
from schema.errors import DuplicateInstance, Invalid, InvalidArgument
from schema.identity import TaskId
from schema.kinds import KindInfo, OnWorkerLost
from schema.limits import Limits
from schema.transitions import creation
from schema.transitions.creation import NewSubtask, NewTask
from taskserver.expansion import ExpandedSubtask, ExpandedTask, expand

MAX_BATCH = 1000
_T = TypeVar("_T")
_DEFAULT_NAME = "task"
_INLINE = "inline"


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who submits, into which account, and the trace of the request."""

    name: str
    account: str
    trace_id: str | None = None
    traceparent: str | None = None


def submit_document(engine: Engine, document: object, submitter: Submitter, *, limits: Limits) -> tuple[TaskId, bool]:
    """Store the task that a JSON document describes; return its id, and whether it is new.

    Raises:
        InvalidArgument, InvalidGraph, TooLarge: The document is wrong; nothing was stored.
        DuplicateInstance: An unsettled task holds the instance.
        Unavailable: PostgreSQL is away. Whether the task was stored is unknown.

    """
    submission = parse_submission(document, limits=limits)
    with transaction(engine) as connection:
        return submit(connection, submission, submitter, limits=limits)


def submit_batch(engine: Engine, documents: object, submitter: Submitter, *, limits: Limits) -> list[TaskId]:
    """Store the tasks that a list of JSON documents describes, all or none; return their ids in the same order.

    Raises:
        InvalidArgument: It is not a list of 1 to `MAX_BATCH` documents.
        Invalid, DuplicateInstance: One of them is refused; the fields of `sub_errors` begin with its place.

    """
    if not isinstance(documents, list) or not 1 <= len(documents) <= MAX_BATCH:
        raise InvalidArgument(f"a batch is a JSON array of 1 to {MAX_BATCH} submissions; send more in several batches")
    submissions = [_located(at, partial(parse_submission, one, limits=limits)) for at, one in enumerate(documents)]
    # In the order of the keys that guard against duplicates, so that two batches do not wait for each other.
    in_order = sorted(enumerate(submissions), key=lambda one: _duplicate_key(one[1], submitter.account) or "")
    tasks: dict[int, TaskId] = {}
    with transaction(engine) as connection:
        kinds = load_kinds(connection, {name for submission in submissions for name in _kinds_of(submission)})
        for at, submission in in_order:
            tasks[at], _ = _located(at, partial(_store, connection, submission, submitter, kinds, limits))
    return [tasks[at] for at in range(len(submissions))]


def _located(at: int, step: Callable[[], _T]) -> _T:
    """Take a step of one submission of a batch; an error says which one."""
    try:
        return step()
    except (Invalid, DuplicateInstance) as error:
        located = tuple(replace(one, field=f"/{at}{one.field}") for one in error.sub_errors)
        target = f"/{at}{error.target}" if (error.target or "").startswith("/") else error.target
        raise type(error)(f"submission {at}: {error.message}", target=target, sub_errors=located) from error


def submit(
    connection: Connection, submission: Submission, submitter: Submitter, *, limits: Limits
) -> tuple[TaskId, bool]:
    """Store a submission in the caller's transaction: rolled back with it, published after its commit."""
    return _store(connection, submission, submitter, load_kinds(connection, _kinds_of(submission)), limits)


def _kinds_of(submission: Submission) -> set[str]:
    return {one.kind for one in submission.subtasks or () if one.kind is not None}


def _store(
    connection: Connection, submission: Submission, submitter: Submitter, kinds: Mapping[str, KindInfo], limits: Limits
) -> tuple[TaskId, bool]:
    expanded = expand(submission, kinds=kinds, limits=limits)
    try:
        task = creation.create_task(connection, _new_task(expanded, submitter, kinds))
    except DuplicateInstance as error:  # found without an error in PostgreSQL: the transaction goes on
        if submission.on_duplicate != "return" or error.target is None:
            raise
        return TaskId(int(error.target)), False
    return task, True


_KIND_COLUMNS = [one.name for one in fields(KindInfo)]
_KINDS = text(f"SELECT {', '.join(_KIND_COLUMNS)} FROM kinds WHERE name = ANY (CAST(:names AS text[])) OR :all")


def load_kinds(connection: Connection, names: Collection[str]) -> Mapping[str, KindInfo]:
    """Return the named kinds; all of them when one is missing, so that an error can tell the nearest."""
    kinds = _kinds_by_name(connection.execute(_KINDS, {"names": sorted(names), "all": False}).mappings().all())
    if len(kinds) == len(names):
        return kinds
    return _kinds_by_name(connection.execute(_KINDS, {"names": [], "all": True}).mappings().all())


def _kinds_by_name(rows: Collection[RowMapping]) -> dict[str, KindInfo]:
    return {
        row["name"]: KindInfo(
            **{
                **row,
                "result_schema": row["result_schema"] or {},
                "on_worker_lost": OnWorkerLost(row["on_worker_lost"]),
            }
        )
        for row in rows
    }


def _new_task(expanded: ExpandedTask, submitter: Submitter, kinds: Mapping[str, KindInfo]) -> NewTask:
    given = expanded.submission
    return NewTask(
        name=given.name or given.definition or _DEFAULT_NAME,
        account=submitter.account,
        creator=submitter.name,
        subtasks=[_new_subtask(one, kinds) for one in expanded.subtasks],
        arguments=given.arguments,
        type=given.type,
        task_type=given.definition or _INLINE,
        instance_id=given.instance_id,
        extra=given.extra,
        on_duplicate=given.on_duplicate or "reject",
        duplicate_key=_duplicate_key(given, submitter.account),
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


def _duplicate_key(submission: Submission, account: str) -> str | None:
    if submission.instance_id is None or submission.on_duplicate == "allow":
        return None
    return json.dumps([account, submission.definition or _INLINE, submission.instance_id, submission.extra])
