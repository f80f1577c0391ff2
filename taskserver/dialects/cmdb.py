"""The task calls of BK-CMDB, for clients written for it: callback tasks, their lists, their deletion and the sync history.

A projection of the stored tasks; `docs/bk-cmdb.md` describes it. Callback tasks are stored by `taskserver.callback_tasks`; the
lists show tasks of any kind.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from structlog import get_logger

from schema.errors import InvalidArgument
from schema.limits import SUBMISSION_BYTES
from taskserver.api.authentication import Caller, Manager, Submitter, Viewer
from taskserver.api.bodies import parse_json, read_body
from taskserver.api.dialect import Dialect
from taskserver.api.documentation import json_array_body, json_body
from taskserver.api.services import Served, Services
from taskserver.api.trace import trace_of
from taskserver.callback_tasks import CallbackTask, prepare_callback_tasks, stored_header
from taskserver.deletions import delete_tasks
from taskserver.dialects.cmdb_envelope import FAILURES, SUCCESS, answer, failure
from taskserver.dialects.cmdb_requests import (
    Body,
    Deletion,
    NewCallbackTask,
    Question,
    Wanted,
    conditions_of,
    read,
    wanted,
)
from taskserver.dialects.cmdb_views import (
    CmdbAnswer,
    CmdbFound,
    CmdbHistory,
    CmdbSyncStatus,
    CmdbTask,
    CmdbTasks,
)
from taskserver.new_rows import Submitter as SubmittedBy
from taskserver.principals import Principal
from taskserver.queries import cmdb_tasks, sync_history
from taskserver.queries.cmdb_conditions import HISTORY_FIELDS, TASK_FIELDS, Condition, Operator
from taskserver.spelling import STORABLE
from taskserver.submission import MAX_BATCH, Prepared, Stored

PREFIX = "/task/v3"
BODIES: tuple[type[Body], ...] = (NewCallbackTask, Question, Deletion)
MAX_PAGE = 1_000
MAX_TASKS = 10_000
MAX_HISTORY = 10_000
MAX_DELETED = 10_000

_TASK_ID = re.compile("[0-9a-f]{32}")
_log = get_logger("taskserver.dialects.cmdb")

router = APIRouter(prefix=PREFIX, tags=["bk-cmdb"], responses=FAILURES)


async def _body(request: Request, _caller: Caller, served: Served) -> bytes:
    return await read_body(request, most=served.settings.limits.submission_bytes, setting=SUBMISSION_BYTES)


Bytes = Annotated[bytes, Depends(_body)]
TaskType = Annotated[str, Path(alias="name", max_length=200, description="The task type."), STORABLE]


@router.post(
    "/task/create",
    response_model=CmdbAnswer[CmdbTask],
    summary="BK-CMDB: create a task",
    openapi_extra=json_body("NewCallbackTask"),
)
async def post_create(request: Request, principal: Submitter, served: Served, body: Bytes) -> Response:
    """Store a task with one subtask for each element of `data`, and answer it."""

    def prepare() -> Prepared:
        return _prepared(request, principal, served, [read(NewCallbackTask, parse_json(body))])

    def answer_stored(stored: Sequence[Stored]) -> Response:
        # None only if it has run and was deleted since.
        return answer(request, next(iter(_stored(stored, principal, served)), None))

    return await served.gate.store(served.engine, prepare, answer_stored)


@router.post(
    "/createmany/task",
    response_model=CmdbAnswer[list[CmdbTask]],
    summary="BK-CMDB: create several tasks",
    openapi_extra=json_array_body("NewCallbackTask", most=MAX_BATCH),
)
async def post_createmany(request: Request, principal: Submitter, served: Served, body: Bytes) -> Response:
    """Store all the tasks or none, and answer them in the same order."""

    def prepare() -> Prepared:
        documents = parse_json(body)
        if not isinstance(documents, list) or len(documents) > MAX_BATCH:
            raise InvalidArgument(f"the body must be an array of at most {MAX_BATCH} tasks; send more in several calls")
        tasks = [read(NewCallbackTask, one, f"/{at}") for at, one in enumerate(documents)]
        return _prepared(request, principal, served, tasks)

    def answer_stored(stored: Sequence[Stored]) -> Response:
        return answer(request, _stored(stored, principal, served))

    return await served.gate.store(served.engine, prepare, answer_stored)


def _prepared(request: Request, principal: Principal, served: Services, tasks: Sequence[NewCallbackTask]) -> Prepared:
    trace = trace_of(request)
    by = SubmittedBy(principal.name, principal.account, trace_id=trace.id, traceparent=trace.traceparent)
    wished = [CallbackTask(one.task_type, one.bk_inst_id, one.extra, tuple(one.data)) for one in tasks]
    return prepare_callback_tasks(wished, by, header=stored_header(request.headers), limits=served.settings.limits)


def _stored(stored: Sequence[Stored], principal: Principal, served: Services) -> list[dict[str, Any]]:
    if any(one.is_new for one in stored):
        served.after_submission()
    return cmdb_tasks.find_tasks(served.engine, [one.task for one in stored], account=principal.account)


@router.post("/task/findone/detail/{task_id}", response_model=CmdbAnswer[CmdbFound], summary="BK-CMDB: show a task")
def post_detail(
    request: Request,
    principal: Viewer,
    served: Served,
    task_id: Annotated[str, Path(description="32 hex digits.")],
) -> Response:
    """Return the task as `info`, which is null where there is none."""
    known = _TASK_ID.fullmatch(task_id) is not None
    found = cmdb_tasks.find_task(served.engine, task_id, account=principal.account) if known else None
    return answer(request, {"info": found})


@router.post(
    "/task/findmany/list/{name}",
    response_model=CmdbAnswer[CmdbTasks],
    summary="BK-CMDB: list tasks of a type",
    openapi_extra=json_body("Question", required=False),
)
def post_list(request: Request, principal: Viewer, served: Served, name: TaskType, body: Bytes) -> Response:
    """Return one page of the tasks that match, the oldest first unless `page.sort` says otherwise."""
    question = _question(body)
    asked = wanted(question, TASK_FIELDS, most=MAX_PAGE)
    count, info = cmdb_tasks.count_and_list(
        served.engine,
        [*asked.conditions, *_of_type(name)],
        account=principal.account,
        orders=asked.orders,
        start=asked.start,
        most=_most(asked, MAX_TASKS),
        large=_large(asked),
    )
    page = question.paging.model_dump(exclude_defaults=True) | {"start": asked.start}
    return answer(request, {"info": _shown(asked, info, MAX_TASKS), "count": count, "page": page})


@router.post(
    "/task/findmany/list/latest/{name}",
    response_model=CmdbAnswer[list[CmdbTask]],
    summary="BK-CMDB: list the newest task of each instance",
    openapi_extra=json_body("Question", required=False),
)
def post_latest(request: Request, principal: Viewer, served: Served, name: TaskType, body: Bytes) -> Response:
    """Return, of the tasks that match, the newest of each instance, in the order of the instances."""
    asked = wanted(_question(body), TASK_FIELDS, most=MAX_TASKS, sortable=False)
    found = cmdb_tasks.newest_of_each(
        served.engine,
        [*asked.conditions, *_of_type(name)],
        account=principal.account,
        start=asked.start,
        most=_most(asked, MAX_TASKS),
        large=_large(asked),
    )
    return answer(request, _shown(asked, found, MAX_TASKS))


@router.post(
    "/task/deletemany",
    response_model=CmdbAnswer[str],
    summary="BK-CMDB: delete tasks",
    openapi_extra=json_body("Deletion"),
)
def post_deletemany(request: Request, principal: Manager, served: Served, body: Bytes) -> Response:
    """Delete the settled tasks that match, whole; others are left. The sync history keeps its rows."""
    selection = read(Deletion, _document(body))
    if not selection.condition:
        raise InvalidArgument("condition: is required and must not be empty: say which tasks", target="/condition")
    conditions = conditions_of(selection, TASK_FIELDS)
    found = cmdb_tasks.find_settled(served.engine, conditions, account=principal.account, most=MAX_DELETED + 1)
    if len(found) > MAX_DELETED:
        raise InvalidArgument(
            f"condition: more than {MAX_DELETED} settled tasks match, none was deleted: narrow it, such as by create_time",
            target="/condition",
        )
    deleted = delete_tasks(served.engine, found)
    _log.info("deleted tasks", action="delete_tasks", principal=principal.name, count=deleted)
    return answer(request, SUCCESS)


@router.post(
    "/findmany/latest/sync_status",
    response_model=CmdbAnswer[list[CmdbSyncStatus]],
    summary="BK-CMDB: list the newest sync status of each instance",
    openapi_extra=json_body("Question", required=False),
)
def post_latest_sync_status(request: Request, principal: Viewer, served: Served, body: Bytes) -> Response:
    """Return, of the rows that match, the newest of each task type and instance, in the order of both."""
    asked = wanted(_question(body), HISTORY_FIELDS, most=MAX_HISTORY, sortable=False)
    found = sync_history.newest_of_each(
        served.engine,
        asked.conditions,
        account=principal.account,
        start=asked.start,
        most=_most(asked, MAX_HISTORY),
    )
    return answer(request, _shown(asked, found, MAX_HISTORY))


@router.post(
    "/findmany/sync_status_history",
    response_model=CmdbAnswer[CmdbHistory],
    summary="BK-CMDB: list the sync history",
    openapi_extra=json_body("Question", required=False),
)
def post_sync_status_history(request: Request, principal: Viewer, served: Served, body: Bytes) -> Response:
    """Return one page of the rows that match, the oldest first unless `page.sort` says otherwise."""
    asked = wanted(_question(body), HISTORY_FIELDS, most=MAX_HISTORY)
    count, info = sync_history.count_and_list(
        served.engine,
        asked.conditions,
        account=principal.account,
        orders=asked.orders,
        start=asked.start,
        most=_most(asked, MAX_HISTORY),
        counted=asked.counted,
    )
    return answer(request, {"count": count, "info": _shown(asked, info, MAX_HISTORY)})


def _question(body: bytes) -> Question:
    return read(Question, _document(body))


def _document(body: bytes) -> object:
    document = parse_json(body) if body.strip() else None
    return {} if document is None else document


def _of_type(name: str) -> list[Condition]:
    return [Condition("task_type", Operator.EQUAL, name)]


def _most(asked: Wanted, most: int) -> int:
    """Return how many to read; where no limit was given one more than may be answered, to see whether there are more."""
    return most + 1 if asked.limit is None else asked.limit


def _large(asked: Wanted) -> frozenset[str]:
    """Return which of the members that take long to read are asked for."""
    return cmdb_tasks.LARGE & asked.fields if asked.fields else cmdb_tasks.LARGE


def _shown(asked: Wanted, found: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the members asked for.

    Raises:
        InvalidArgument: All were wanted, and they are too many.

    """
    if len(found) > most:
        raise InvalidArgument(
            f"page.limit: more than {most} match: give a limit of at most {min(most, MAX_PAGE)}, and ask for the rest with "
            "page.start",
            target="/page/limit",
        )
    if not asked.fields:
        return found
    # What is left out of a member is said with it.
    members = asked.fields | {f"{name}_omitted" for name in _large(asked)}
    return [{name: value for name, value in one.items() if name in members} for one in found]


DIALECT = Dialect(prefixes=(PREFIX,), router=router, failure=failure)
