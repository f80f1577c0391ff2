"""Subtasks: one of them in full, and its log."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from taskserver.api.authentication import Viewer
from taskserver.api.documentation import ERRORS, PREFIX
from taskserver.api.envelope import Envelope, answer
from taskserver.api.parameters import SUBTASK_PATH, TASK_PATH, SubtaskPathId, TaskPathId
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.queries.logs import CURSOR, START, Cursor, LogQuestion, subtask_log
from taskserver.queries.subtasks import subtask_detail
from taskserver.spelling import Spelled
from taskserver.views.subtasks import LogText, SubtaskDetail

_INT_MAX = 2**31 - 1
_TAIL_MOST = 100_000

router = APIRouter(
    prefix=f"{PREFIX}/instances{TASK_PATH}/subtasks",
    tags=["subtasks"],
    responses=ERRORS,
    dependencies=[Depends(refuse_unknown_parameters)],
)

After = Annotated[
    str,
    Spelled(f"({CURSOR})?", "must be the cursor of an earlier answer, or absent"),
    Query(description="The cursor of an earlier answer: only what came after it."),
]
AttemptNumber = Annotated[
    int | None, Query(alias="attempt", ge=1, le=_INT_MAX, description="Only the attempt of this number.")
]
Tail = Annotated[int | None, Query(ge=0, le=_TAIL_MOST, description="Only the last lines, so many.")]


@router.get(SUBTASK_PATH, response_model=Envelope[SubtaskDetail], summary="Show a subtask")
def get_subtask(
    request: Request, principal: Viewer, served: Served, task_id: TaskPathId, subtask_id: SubtaskPathId
) -> Response:
    """Return the subtask with its arguments, its result and all its attempts."""
    silence = served.settings.dead_after_seconds
    view = subtask_detail(served.engine, task_id, subtask_id, account=principal.account, silence_seconds=silence)
    return answer(request, view)


@router.get(f"{SUBTASK_PATH}/log", response_model=Envelope[LogText], summary="Show the log of a subtask")
def get_log(
    request: Request,
    principal: Viewer,
    served: Served,
    task_id: TaskPathId,
    subtask_id: SubtaskPathId,
    *,
    after: After = "",
    attempt: AttemptNumber = None,
    tail: Tail = None,
) -> Response:
    """Return what the subtask's attempts have written, or the part of it that is asked for."""
    question = LogQuestion(after=Cursor.parse(after) if after else START, attempt=attempt, tail=tail)
    return answer(request, subtask_log(served.engine, task_id, subtask_id, question, account=principal.account))
