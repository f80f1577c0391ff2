"""Tasks: list, submit, detail, plan, audit."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from schema.limits import SUBMISSION_BYTES
from schema.main_api import PREFIX
from taskserver import planner
from taskserver.api.authentication import Submitter, Viewer
from taskserver.api.bodies import parse_json, read_body
from taskserver.api.documentation import ERRORS, json_array_body, json_body
from taskserver.api.envelope import Envelope, answer
from taskserver.api.idempotency_header import IdempotencyKey
from taskserver.api.parameters import TASK_PATH, ListQuery, TaskPathId
from taskserver.api.services import Served, Services
from taskserver.api.trace import trace_of
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.new_rows import Submitter as SubmittedBy
from taskserver.plan_view import plan_document
from taskserver.principals import Principal
from taskserver.queries.details import task_detail, task_details
from taskserver.queries.listing import list_tasks
from taskserver.queries.operations import task_operations
from taskserver.queries.plans import task_graph
from taskserver.submission import MAX_BATCH, Prepared, Stored, prepare_batch, prepare_document
from taskserver.views.tasks import Operations, Plan, Task, TaskPage

router = APIRouter(
    prefix=f"{PREFIX}/instances", tags=["tasks"], responses=ERRORS, dependencies=[Depends(refuse_unknown_parameters)]
)


@router.get("", response_model=Envelope[TaskPage], summary="List tasks")
def get_instances(request: Request, principal: Viewer, served: Served, question: ListQuery) -> Response:
    """Return one page of the tasks of the caller's account, each with at most its first 1,000 subtasks.

    One answer lists at most 100,000 subtasks in all, the first of each task; `subtaskCount` tells how many there are.
    """
    page = list_tasks(
        served.engine,
        question.filter,
        account=principal.account,
        order=question.order,
        page=question.page,
        size=question.size,
    )
    return answer(request, page)


async def _body(
    request: Request,
    principal: Submitter,  # noqa: ARG001 - refused before the body is read
    served: Served,
    key: IdempotencyKey,  # noqa: ARG001 - so is a wrong key
) -> bytes:
    return await read_body(request, most=served.settings.limits.submission_bytes, setting=SUBMISSION_BYTES)


Body = Annotated[bytes, Depends(_body)]


@router.post(
    "",
    response_model=Envelope[Task],
    status_code=201,
    summary="Submit a task",
    responses={
        200: {"model": Envelope[Task], "description": "The unsettled task of the same instance, or of the same key."}
    },
    openapi_extra=json_body("Submission"),
)
async def post_instances(
    request: Request, principal: Submitter, served: Served, body: Body, key: IdempotencyKey
) -> Response:
    """Store a task and answer its detail. It is published once it is committed."""
    by, limits = _submitter(request, principal), served.settings.limits

    def prepare() -> Prepared:
        return prepare_document(parse_json(body), by, limits=limits, idempotency_key=key)

    def answer_stored(stored: Sequence[Stored]) -> Response:
        [one], is_new = stored, _publish(stored, served)
        location = {"Location": f"{PREFIX}/instances/{one.task}"}
        [detail] = _details(stored, principal, served)
        return answer(request, detail, status=201 if is_new else 200, headers=location)

    return await served.gate.store(served.engine, prepare, answer_stored)


@router.post(
    "/batch",
    response_model=Envelope[list[Task]],
    status_code=201,
    summary="Submit several tasks",
    responses={200: {"model": Envelope[list[Task]], "description": "None is new: those of the same instances or key."}},
    openapi_extra=json_array_body("Submission", most=MAX_BATCH),
)
async def post_batch(
    request: Request, principal: Submitter, served: Served, body: Body, key: IdempotencyKey
) -> Response:
    """Store all the tasks or none, and answer their details in the same order."""
    by, limits = _submitter(request, principal), served.settings.limits

    def prepare() -> Prepared:
        return prepare_batch(parse_json(body), by, limits=limits, idempotency_key=key)

    def answer_stored(stored: Sequence[Stored]) -> Response:
        is_new = _publish(stored, served)
        return answer(request, _details(stored, principal, served), status=201 if is_new else 200)

    return await served.gate.store(served.engine, prepare, answer_stored)


def _publish(stored: Sequence[Stored], served: Services) -> bool:
    is_new = any(one.is_new for one in stored)
    if is_new:
        served.after_submission()
    return is_new


def _details(stored: Sequence[Stored], principal: Principal, served: Services) -> list[Task]:
    tasks, silence = [one.task for one in stored], served.settings.dead_after_seconds
    return task_details(served.engine, tasks, account=principal.account, silence_seconds=silence)


def _submitter(request: Request, principal: Principal) -> SubmittedBy:
    trace = trace_of(request)
    return SubmittedBy(principal.name, principal.account, trace_id=trace.id, traceparent=trace.traceparent)


@router.get(TASK_PATH, response_model=Envelope[Task], summary="Show a task")
def get_instance(request: Request, principal: Viewer, served: Served, task_id: TaskPathId) -> Response:
    """Return the task with all its subtasks in topological order."""
    silence = served.settings.dead_after_seconds
    return answer(request, task_detail(served.engine, task_id, account=principal.account, silence_seconds=silence))


@router.get(f"{TASK_PATH}/plan", response_model=Envelope[Plan], summary="Show the plan of a task")
def get_plan(request: Request, principal: Viewer, served: Served, task_id: TaskPathId) -> Response:
    """Return how the whole graph becomes Celery chains and chords, with the workers that live now."""
    silence = served.settings.dead_after_seconds
    graph = task_graph(served.engine, task_id, account=principal.account, silence_seconds=silence)
    planned = planner.plan(graph.nodes, graph.edges, slots=graph.slots)
    return answer(request, Plan.model_validate(plan_document(planned, graph.keys, graph.edges)))


@router.get(f"{TASK_PATH}/operations", response_model=Envelope[Operations], summary="Show who did what to a task")
def get_operations(request: Request, principal: Viewer, served: Served, task_id: TaskPathId) -> Response:
    """Return the verbs used on the task, oldest first."""
    return answer(request, task_operations(served.engine, task_id, account=principal.account))
