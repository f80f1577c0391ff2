"""Subtasks by key: what a client asks before all else about a subtask whose id it does not know."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from schema.main_api import PREFIX
from taskserver.api.authentication import Viewer
from taskserver.api.documentation import ERRORS
from taskserver.api.envelope import Envelope, answer
from taskserver.api.parameters import TASK_PATH, TaskPathId
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.queries.subtask_keys import subtasks_of_key
from taskserver.spelling import STORABLE
from taskserver.views.subtasks import KeyedSubtasks

router = APIRouter(
    prefix=f"{PREFIX}/instances{TASK_PATH}/subtasks",
    tags=["subtasks"],
    responses=ERRORS,
    dependencies=[Depends(refuse_unknown_parameters)],
)
Key = Annotated[str, STORABLE, Query(description="The subtask's key, such as mount[0].")]


@router.get("", response_model=Envelope[KeyedSubtasks], summary="Find a subtask by its key")
def get_subtasks(request: Request, principal: Viewer, served: Served, task_id: TaskPathId, key: Key) -> Response:
    """Return the subtask of that key in a list of one, or an empty list: cheap, however many subtasks there are."""
    return answer(request, subtasks_of_key(served.engine, task_id, key, account=principal.account))
