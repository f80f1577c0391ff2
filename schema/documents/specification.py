"""The submission document: its models, and the one door through which a document becomes one.

Owns the shape of contract §4; a subtask's own is in `subtask`. It does not know which kinds exist, what the graph
looks like or what a reference leads to: that is `expansion`. A field that is None was left out, and whoever knows the
definition or the kind fills in the default.
"""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from schema.documents.document import Document, check_raw
from schema.documents.field_errors import validated
from schema.documents.field_types import (
    BigInt,
    BusinessId,
    Concurrency,
    DuplicatePolicy,
    Extra,
    HttpUrl,
    Moment,
    Name,
    Priority,
    Seconds,
    TaskType,
    Title,
)
from schema.documents.problems import Problems
from schema.documents.subtask import Subtask, known_fields, note_subtask
from schema.limits import DEFAULT_LIMITS, Limits


class Cluster(Document):
    """The OCP cluster that a task is about."""

    id: BigInt | None = None
    name: Title | None = None
    ob_cluster_id: BigInt | None = None
    type: Literal["PRIMARY", "STANDBY"] | None = None


class Tenant(Document):
    """The tenant that a task is about; the seed spells `obTenantId` as `obClusterId`."""

    id: BigInt | None = None
    name: Title | None = None
    ob_tenant_id: BigInt | None = Field(None, validation_alias=AliasChoices("obTenantId", "obClusterId"))
    mode: Literal["ORACLE", "MYSQL"] | None = None


class Submission(Document):
    """A task as the user submits it."""

    name: Title | None = None
    definition: Name | None = None
    type: TaskType = "MANUAL"
    instance_id: BigInt | None = None
    extra: Extra = ""
    on_duplicate: DuplicatePolicy | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    cluster: Cluster | None = None
    tenant: Tenant | None = None
    host_id: BigInt | None = None
    integration_id: BigInt | None = None
    user_id: BigInt | None = None
    client_id: BigInt | None = None
    account_id: BigInt | None = None
    template_id: BigInt | None = None
    biz_id: BusinessId | None = None
    priority: Priority = 5
    start_at: Moment | None = None
    deadline_seconds: Seconds | None = None
    concurrency: Concurrency | None = None
    prohibit_rollback: bool = False
    callback_url: HttpUrl | None = None
    subtasks: Annotated[tuple[Subtask, ...], Field(strict=False)] | None = None


_KNOWN_FIELDS = known_fields(Submission, {"cluster": Cluster, "tenant": Tenant})


def parse_submission(document: object, *, limits: Limits = DEFAULT_LIMITS) -> Submission:
    """Return the submission that a JSON document describes.

    Raises:
        InvalidArgument: fields are wrong; `sub_errors` names each.
        InvalidGraph: a reference or condition is malformed, or there are too many subtasks.
    """
    check_raw(document, limits=limits, whole="the submission")
    problems = Problems()
    submission = validated(Submission, document, problems, _KNOWN_FIELDS)
    _note_rule_breaks(submission, problems)
    problems.raise_if_any()
    return submission


def _note_rule_breaks(submission: Submission, problems: Problems) -> None:
    if submission.definition is None and submission.subtasks is None:
        problems.argument("", "needs either a definition or subtasks: add one of them")
    if submission.definition is not None and submission.subtasks is not None:
        problems.argument(
            "/definition", "stands beside subtasks: give either a definition or subtasks", submission.definition
        )
    if submission.on_duplicate not in {None, "allow"} and submission.instance_id is None:
        problems.argument("/onDuplicate", "needs an instanceId: duplicates are told by it", submission.on_duplicate)
    for index, subtask in enumerate(submission.subtasks or ()):
        note_subtask(subtask, f"/subtasks/{index}", problems)
