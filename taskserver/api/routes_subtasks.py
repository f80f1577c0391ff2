"""Subtasks: one of them in full, and its log."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from taskserver.api.authentication import Viewer
from taskserver.api.documentation import ERRORS, PREFIX
from taskserver.api.envelope import Envelope, answer
from taskserver.api.parameters import SubtaskPathId, TaskPathId
from taskserver.api.services import Served
from taskserver.queries.logs import CURSOR, START, Cursor, LogQuestion, subtask_log
from taskserver.queries.subtasks import subtask_detail
from taskserver.views.subtasks import LogText, SubtaskDetail

_INT_MAX = 2**31 - 1
_TAIL_MOST = 100_000

router = APIRouter(prefix=f"{PREFIX}/instances/{{task_id}}/subtasks", tags=["subtasks"], responses=ERRORS)

After = Annotated[
    str, Query(pattern=f"^({CURSOR})?$", description="The cursor of an earlier answer: only what came after it.")
]
AttemptNumber = Annotated[
    int | None, Query(alias="attempt", ge=1, le=_INT_MAX, description="Only the attempt of this number.")
]
Tail = Annotated[int | None, Query(ge=0, le=_TAIL_MOST, description="Only the last lines, so many.")]


@router.get("/{subtask_id}", response_model=Envelope[SubtaskDetail], summary="Show a subtask")
def get_subtask(
    request: Request, principal: Viewer, served: Served, task_id: TaskPathId, subtask_id: SubtaskPathId
) -> Response:
    """Return the subtask with its arguments, its result and all its attempts."""
    silence = served.settings.dead_after_seconds
    view = subtask_detail(served.engine, task_id, subtask_id, account=principal.account, silence_seconds=silence)
    return answer(request, view)


@router.get("/{subtask_id}/log", response_model=Envelope[LogText], summary="Show the log of a subtask")
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
