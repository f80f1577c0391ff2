"""A submission as Python programs write it: keyword arguments in snake case, the document's members on the wire."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from pydantic.alias_generators import to_camel

from schema.errors import InvalidArgument
from taskserver.client.answers import Document


class SubmissionMembers(TypedDict, total=False):
    """The members of a submission; those that are None are left out."""

    definition: str | None
    subtasks: Sequence[Document] | None
    name: str | None
    type: str | None
    instance_id: int | None
    extra: str | None
    on_duplicate: str | None
    arguments: Document | None
    priority: int | None
    start_at: datetime | str | None
    deadline_seconds: float | None
    concurrency: int | None
    prohibit_rollback: bool | None
    callback_url: str | None
    cluster: Document | None
    tenant: Document | None
    host_id: int | None
    integration_id: int | None
    user_id: int | None
    client_id: int | None
    account_id: int | None
    template_id: int | None
    biz_id: str | None


class TaskFilters(TypedDict, total=False):
    """Which tasks to list, in which order; those that are None are left out."""

    name: str | None
    status: str | Sequence[str] | None
    state: str | Sequence[str] | None
    type: str | None
    task_type: str | None
    creator: str | None
    instance_id: int | None
    cluster_name: str | None
    cluster_id: int | None
    tenant_name: str | None
    tenant_id: int | None
    host_id: int | None
    created_after: datetime | str | None
    created_before: datetime | str | None
    page: int | None
    size: int | None
    sort: str | Sequence[str] | None


def submission_document(submission: Document | None, members: SubmissionMembers) -> dict[str, Any]:
    """Return the document to submit: the given one, and over it the members.

    Raises:
        TypeError: There is no such member.
        InvalidArgument: A time has no time zone.

    """
    return {**(submission or {}), **_written(members, SubmissionMembers)}


def filter_query(filters: TaskFilters) -> dict[str, Any]:
    """Return the filters as the API spells them.

    Raises:
        TypeError: There is no such filter.
        InvalidArgument: A time has no time zone.

    """
    return _written(filters, TaskFilters)


def _written(given: Mapping[str, Any], known: type[SubmissionMembers | TaskFilters]) -> dict[str, Any]:
    for name in given:
        if name not in known.__annotations__:
            raise TypeError(f"there is no {name!r}: it takes {', '.join(known.__annotations__)}")
    return {to_camel(name): _plain(name, value) for name, value in given.items() if value is not None}


def _plain(name: str, value: object) -> object:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise InvalidArgument(
            f"{name} has no time zone: give an aware datetime, such as datetime.now(UTC)", target=name
        )
    return value.isoformat()
