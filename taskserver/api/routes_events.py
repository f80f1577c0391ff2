"""The changes of a task, as a stream of events."""

from collections.abc import AsyncGenerator
from typing import Annotated

import anyio
from fastapi import APIRouter, Depends, Header, Response
from starlette.concurrency import run_in_threadpool

from schema.identity import TaskId
from schema.main_api import PREFIX
from taskserver.api.authentication import Viewer
from taskserver.api.documentation import ERRORS
from taskserver.api.etags import is_known
from taskserver.api.event_stream import Streaming, described_as_events, event, event_id, last_event_id
from taskserver.api.parameters import TASK_PATH, TaskPathId
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.api.waiting import Watch
from taskserver.projection import is_settled
from taskserver.queries.details import no_task
from taskserver.queries.status import task_statuses
from taskserver.views.tasks import TaskStatus

_LEAST_SECONDS = 0.1  # between two events of one stream

_DESCRIPTION = (
    "Events `status` with the status document, its changeNumber as their id; when the task has settled an event `end`,"
    " and the stream closes."
)
_EXAMPLE = (
    'event: status\ndata: {"id":7,"state":"SUCCESSFUL",…}\nid: 12\n\nevent: end\ndata: {"state":"SUCCESSFUL"}\n\n'
)

router = APIRouter(
    prefix=f"{PREFIX}/instances",
    tags=["status"],
    responses=ERRORS,
    dependencies=[Depends(refuse_unknown_parameters)],
)

LastEventId = Annotated[
    str,
    event_id("[0-9]{1,19}"),
    last_event_id("The changeNumber that the caller has: the first event is another."),
]
IfNoneMatch = Annotated[
    str | None, Header(description="The ETag of a status that the caller has: the first event is another.")
]


@router.get(
    f"{TASK_PATH}/events",
    summary="Follow a task",
    response_class=Response,
    responses={200: described_as_events(_DESCRIPTION, _EXAMPLE)},
)
async def get_events(
    principal: Viewer,
    served: Served,
    streaming: Streaming,
    task_id: TaskPathId,
    *,
    last_event_id: LastEventId = "",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Send the task's status now, and at each change until it has settled; at most ten times a second."""
    found = await run_in_threadpool(task_statuses, served.engine, [task_id], account=principal.account)
    if task_id not in found:
        raise no_task(task_id)
    status = found[task_id]
    number = str(status.change_number)
    is_new = number != last_event_id and not is_known(number, if_none_match)
    return streaming(_changes(served.watch, status, is_new=is_new))


async def _changes(watch: Watch, status: TaskStatus, *, is_new: bool) -> AsyncGenerator[bytes, None]:
    task = TaskId(status.id)
    with watch.tasks([task]) as following:
        while True:
            if is_new:
                yield event("status", status, id_=str(status.change_number))
            if is_settled(status.state):
                yield event("end", {"state": status.state})
                return
            await anyio.sleep(_LEAST_SECONDS)
            newest = await following.other_than(task, status)
            if newest is None:
                return  # who comes back is told why, or is served by another server
            status, is_new = newest, True
