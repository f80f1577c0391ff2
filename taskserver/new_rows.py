"""What is stored of a submission: its document, filled in and expanded, as the rows of a task and its subtasks."""

from collections.abc import Mapping
from dataclasses import dataclass

from schema.documents.definition import INLINE
from schema.instances import duplicate_key
from schema.kinds import KindInfo, OnWorkerLost
from schema.transitions.creation import NewSubtask, NewTask
from taskserver.expansion import ExpandedSubtask, ExpandedTask

_DEFAULT_NAME = "task"


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who submits, into which account, and the trace of the request."""

    name: str
    account: str
    trace_id: str | None = None
    traceparent: str | None = None


def new_task(
    expanded: ExpandedTask, definition_id: int | None, submitter: Submitter, kinds: Mapping[str, KindInfo]
) -> NewTask:
    """Return the rows to store.

    Args:
        expanded: The task.
        definition_id: The version of the definition that it comes from; None for subtasks of its own.
        submitter: Whose it is.
        kinds: Those of its subtasks.

    """
    given = expanded.submission
    task_type = given.definition or INLINE
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
        integration_id=given.integration_id or 0,
        user_id=given.user_id or 0,
        client_id=given.client_id or 0,
        account_id=given.account_id or 0,
        template_id=given.template_id or 0,
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
