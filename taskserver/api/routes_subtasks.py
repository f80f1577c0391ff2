"""Subtasks: one of them in full, and its log, as it is or as it grows."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from schema.main_api import PREFIX
from taskserver.api.authentication import Viewer
from taskserver.api.documentation import ERRORS
from taskserver.api.envelope import Envelope, answer
from taskserver.api.event_stream import Streaming, described_as_events, event_id, last_event_id, wants_events
from taskserver.api.log_following import followed_log, in_pieces
from taskserver.api.parameters import SUBTASK_PATH, TASK_PATH, SubtaskPathId, TaskPathId
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.queries.logs import CURSOR, START, Cursor, LogQuestion, log_beginning, subtask_log
from taskserver.queries.subtasks import subtask_detail
from taskserver.spelling import Spelled
from taskserver.views.subtasks import LogText, SubtaskDetail

_INT_MAX = 2**31 - 1
_TAIL_MOST = 100_000

_LOG_DESCRIPTION = (
    "The log as it is now; as text/event-stream, which must be asked for, events `log` with text as it is written and the"
    " cursor as their id; when nothing more will come an event `end`, and the stream closes."
)
_LOG_EXAMPLE = (
    'event: log\ndata: {"log":"half done\\n","cursor":"41.0"}\nid: 41.0\n\nevent: end\ndata: {"state":"SUCCESSFUL"}\n\n'
)

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
LastEventId = Annotated[
    str,
    event_id(CURSOR),
    last_event_id("Where an earlier stream broke off; counts in place of `after` and `tail`."),
]


@router.get(SUBTASK_PATH, response_model=Envelope[SubtaskDetail], summary="Show a subtask")
def get_subtask(
    request: Request, principal: Viewer, served: Served, task_id: TaskPathId, subtask_id: SubtaskPathId
) -> Response:
    """Return the subtask with its arguments, its result and all its attempts."""
    view = subtask_detail(
        served.engine,
        task_id,
        subtask_id,
        account=principal.account,
        silence_seconds=served.settings.dead_after_seconds,
        flower_url=served.settings.flower_url,
    )
    return answer(request, view)


@router.get(
    f"{SUBTASK_PATH}/log",
    response_model=Envelope[LogText],
    summary="Show or follow the log of a subtask",
    responses={200: described_as_events(_LOG_DESCRIPTION, _LOG_EXAMPLE)},
)
def get_log(
    request: Request,
    principal: Viewer,
    served: Served,
    task_id: TaskPathId,
    subtask_id: SubtaskPathId,
    *,
    streaming: Streaming,
    after: After = "",
    attempt: AttemptNumber = None,
    tail: Tail = None,
    last_event_id: LastEventId = "",
) -> Response:
    """Return what the subtask's attempts have written, or the part of it that is asked for.

    With `Accept: text/event-stream` go on with what they write, until the subtask has ended.
    """
    log = (served.engine, task_id, subtask_id)
    read = partial(subtask_log, *log, account=principal.account)
    question = LogQuestion(after=Cursor.parse(after) if after else START, attempt=attempt, tail=tail)
    if not wants_events(request):
        return answer(request, read(question))
    if last_event_id:
        # It came later than `after`, and the last lines have been sent with it.
        question = replace(question, after=Cursor.parse(last_event_id), tail=None)
    first = log_beginning(*log, in_pieces(question), account=principal.account)
    return streaming(followed_log(served.watch, subtask_id, read, question, first))
