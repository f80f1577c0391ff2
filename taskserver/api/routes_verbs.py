"""The verbs of operators: what they need, what they are given, and what they answer. What they do is in `control`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from schema.documents.field_errors import validated
from schema.documents.problems import Problems
from schema.errors import InvalidArgument
from schema.identity import TaskId
from schema.main_api import PREFIX
from schema.states import TaskState
from schema.transitions.idempotency import IdempotentCall
from schema.transitions.orders import Order
from taskserver.api.authentication import Manager
from taskserver.api.bodies import parse_json, read_body
from taskserver.api.documentation import ERRORS, json_body
from taskserver.api.envelope import EmptyEnvelope, Envelope, answer
from taskserver.api.idempotency_header import IdempotencyKey
from taskserver.api.parameters import SUBTASK_PATH, TASK_PATH, ListQuestion, SubtaskPathId, TaskPathId
from taskserver.api.services import Served, Services
from taskserver.api.trace import trace_of
from taskserver.control import Choice, Command, operate, retry_tasks
from taskserver.idempotency import idempotent_call
from taskserver.principals import Principal
from taskserver.queries.details import short_detail
from taskserver.queries.listing import MAX_SUBTASKS, TaskFilter, task_ids
from taskserver.queries.subtasks import subtask_detail
from taskserver.spelling import STORABLE
from taskserver.views.subtasks import SubtaskDetail
from taskserver.views.tasks import RetriedTask, RetriedTasks, Task, TaskFailure

MAX_TASKS = 1_000
_MAX_BODY_BYTES = 64 * 1024
_FILTER = (
    "As for the list of tasks, without page, sort and empty texts; it finds FAILED tasks, whether or not it says so."
)
_TASK_VERBS = {
    "retry": "Run all FAILED subtasks of a FAILED task again; their attempts are granted anew.",
    "rollback": "Undo what began in a FAILED task, in reverse order; after a failed rollback, go on with it.",
    "cancel": "Let nothing more begin and stop what runs; the task is REVOKED once nothing of it runs.",
    "pause": "Let what has begun end, and hold the rest back.",
    "resume": "Let a SUSPENDED task go on.",
    "abandon": "Give a FAILED task up for good: it is REVOKED.",
}

_Model = TypeVar("_Model", bound="Verb")

router = APIRouter(prefix=f"{PREFIX}/instances", tags=["operate"], responses=ERRORS)

Reason = Annotated[str, Field(max_length=2_000, description="Why; kept in the audit."), STORABLE]


class Verb(BaseModel):
    """What a verb may be given; the body may be absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reason: Reason | None = None

    @classmethod
    def takes(cls) -> str:
        """Return in words what the body may be."""
        return 'send no body, or {"reason": "…"}'


class BulkRetry(Verb):
    """Which tasks to retry: these, or the FAILED ones that a filter finds."""

    ids: (
        Annotated[list[Annotated[int, Field(ge=1, le=2**63 - 1)]], Field(min_length=1, max_length=MAX_TASKS)] | None
    ) = None
    filter: Annotated[dict[str, Any], Field(description=_FILTER)] | None = None

    @classmethod
    def takes(cls) -> str:
        """Return in words what the body must be."""
        return 'send {"ids": […]} or {"filter": {…}}, with a reason if there is one'


async def _body(request: Request, _principal: Manager, _key: IdempotencyKey) -> bytes:
    return await read_body(request, most=_MAX_BODY_BYTES)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that uses a verb: who asks, with what."""

    request: Request
    principal: Principal
    served: Services
    body: bytes
    key: str | None

    def parse(self, model: type[_Model]) -> tuple[object, _Model]:
        """Return the body as a document, and what it says; null is no body.

        Raises:
            InvalidArgument: It names each wrong member, or says what the verb takes.

        """
        document = parse_json(self.body) if self.body.strip() else None
        if document is None:
            document = {}
        problems = Problems("the body")
        if not isinstance(document, dict):
            problems.argument("", f"must be a JSON object: {model.takes()}", document)
            problems.raise_if_any()
        return document, validated(model, document, problems, lambda _: list(model.model_fields))

    def operate(self, command: Command) -> None:
        """Use the verb."""
        document, given = self.parse(Verb)
        operate(self.served.engine, command, self.order(given.reason), call=self.call(command.scope, document))

    def order(self, reason: str | None) -> Order:
        """Return who asks, and why."""
        trace = trace_of(self.request)
        return Order(self.principal.name, self.principal.account, reason=reason, trace_id=trace.id)

    def call(self, scope: str, document: object) -> IdempotentCall | None:
        """Return what the idempotency key stands for, if there is one."""
        return idempotent_call(self.key, account=self.principal.account, scope=scope, document=document)


def _asked(
    request: Request,
    principal: Manager,
    served: Served,
    body: Annotated[bytes, Depends(_body)],
    key: IdempotencyKey,
) -> Asked:
    return Asked(request, principal, served, body, key)


Asking = Annotated[Asked, Depends(_asked)]


@router.post(
    "/retry",
    response_model=Envelope[RetriedTasks],
    summary="Retry several tasks",
    openapi_extra=json_body("BulkRetry"),
)
def post_bulk_retry(asked: Asking) -> Response:
    """Retry each of the tasks that is FAILED; answer for each what became of it. A filter finds FAILED tasks only."""
    document, wanted = asked.parse(BulkRetry)
    choose = _choice(wanted, asked.principal.account)
    retried = retry_tasks(
        asked.served.engine, choose, asked.order(wanted.reason), call=asked.call("retry several tasks", document)
    )
    contents = [
        RetriedTask(id=one.task, successful=one.error is None, error=one.error and TaskFailure(**one.error))
        for one in retried
    ]
    return answer(asked.request, RetriedTasks(contents=contents))


def _choice(wanted: BulkRetry, account: str) -> Choice:
    if (wanted.ids is None) == (wanted.filter is None):
        raise InvalidArgument("give either ids or a filter")
    if wanted.ids is not None:
        named = [TaskId(one) for one in dict.fromkeys(wanted.ids)]
        return lambda _: named
    failed = _failed_only(wanted.filter or {})

    def choose(connection: Connection) -> list[TaskId]:
        found = task_ids(connection, failed, account=account, most=MAX_TASKS + 1)
        if len(found) > MAX_TASKS:
            raise InvalidArgument(f"the filter finds more than {MAX_TASKS} tasks: narrow it, or retry in several calls")
        return found

    return choose


def _failed_only(document: dict[str, Any]) -> TaskFilter:
    question = ListQuestion.of_document(document)
    problems = Problems()
    for name, words in (("state", question.state), ("status", question.status)):
        if set(words) - {TaskState.FAILED}:
            problems.argument(f"/filter/{name}", "only FAILED tasks are retried: leave it out", document[name])
    problems.raise_if_any()
    return replace(question.filter, states=frozenset({TaskState.FAILED}))


def _task_verb(verb: str) -> Callable[..., Response]:
    def post(asked: Asking, task_id: TaskPathId) -> Response:
        asked.operate(Command(verb, task_id))
        served, account = asked.served, asked.principal.account
        silence = served.settings.dead_after_seconds
        return answer(asked.request, short_detail(served.engine, task_id, account=account, silence_seconds=silence))

    post.__name__ = f"post_{verb}"
    return post


for _verb, _description in _TASK_VERBS.items():
    router.add_api_route(
        f"{TASK_PATH}/{_verb}",
        _task_verb(_verb),
        methods=["POST"],
        response_model=Envelope[Task],
        summary=f"{_verb.capitalize()} a task",
        description=f"{_description} The answer is the task with its first {MAX_SUBTASKS:,} subtasks.",
        openapi_extra=json_body("Verb", required=False),
    )


@router.post(
    f"{TASK_PATH}/subtasks{SUBTASK_PATH}/retry",
    response_model=Envelope[SubtaskDetail],
    summary="Retry a subtask",
    openapi_extra=json_body("Verb", required=False),
)
def post_subtask_retry(asked: Asking, task_id: TaskPathId, subtask_id: SubtaskPathId) -> Response:
    """Run a FAILED subtask again, also while its siblings run."""
    asked.operate(Command("retry", task_id, subtask_id))
    served, account = asked.served, asked.principal.account
    view = subtask_detail(
        served.engine,
        task_id,
        subtask_id,
        account=account,
        silence_seconds=served.settings.dead_after_seconds,
        flower_url=served.settings.flower_url,
    )
    return answer(asked.request, view)


@router.post(
    f"{TASK_PATH}/subtasks{SUBTASK_PATH}/skip",
    response_model=EmptyEnvelope,
    summary="Skip a subtask",
    openapi_extra=json_body("Verb", required=False),
)
def post_subtask_skip(asked: Asking, task_id: TaskPathId, subtask_id: SubtaskPathId) -> Response:
    """Let what follows a FAILED subtask run as if it had ended well. In a rollback the step counts as done."""
    asked.operate(Command("skip", task_id, subtask_id))
    return answer(asked.request)


@router.post(
    f"{TASK_PATH}/subtasks{SUBTASK_PATH}/cancel",
    response_model=EmptyEnvelope,
    summary="Cancel a subtask",
    openapi_extra=json_body("Verb", required=False),
)
def post_subtask_cancel(asked: Asking, task_id: TaskPathId, subtask_id: SubtaskPathId) -> Response:
    """Ask a RUNNING subtask to stop: CANCELING until it has stopped or was killed, then FAILED with operation CANCEL."""
    asked.operate(Command("cancel", task_id, subtask_id))
    return answer(asked.request)
