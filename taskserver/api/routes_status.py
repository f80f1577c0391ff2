"""Status: cheap to poll, and can be waited for."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

import anyio
from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from schema.identity import TaskId
from schema.main_api import PREFIX
from taskserver.api.authentication import Viewer
from taskserver.api.documentation import ERRORS, NOT_MODIFIED
from taskserver.api.envelope import Envelope, answer
from taskserver.api.etags import IfNoneMatch, is_known, quoted
from taskserver.api.parameters import TASK_PATH, StatusIds, TaskPathId, Until, WaitSeconds, split_ids
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.api.waiting import Watch
from taskserver.projection import is_settled
from taskserver.queries.details import no_task
from taskserver.queries.status import task_statuses
from taskserver.views.tasks import TaskStatus, TaskStatuses
from taskserver.views.view import BIGINT_MAX

router = APIRouter(
    prefix=f"{PREFIX}/instances",
    tags=["status"],
    responses={**ERRORS, **NOT_MODIFIED},
    dependencies=[Depends(refuse_unknown_parameters)],
)

Statuses = Mapping[TaskId, TaskStatus]


@dataclass(frozen=True, slots=True)
class _Wait:
    """How long to hold the answer, and for what."""

    seconds: float
    until_settled: bool
    known: str | None

    def is_over(self, first: Statuses, now: Statuses, tag: Callable[[Statuses], str]) -> bool:
        if self.until_settled:
            return all(is_settled(one.state) for one in now.values())
        if self.known is not None:
            return not is_known(tag(now), self.known)
        return tag(first) != tag(now)


@router.get("/status", response_model=Envelope[TaskStatuses], summary="Show the status of several tasks")
async def get_statuses(
    request: Request,
    principal: Viewer,
    served: Served,
    ids: StatusIds,
    *,
    wait_seconds: WaitSeconds = 0,
    until: Until = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return the statuses of those tasks that are there, and the ids of those that are not."""
    wanted = split_ids(ids)

    def read() -> Statuses:
        known = [one for one in wanted if one <= BIGINT_MAX]
        return task_statuses(served.engine, known, account=principal.account)

    def tag(statuses: Statuses) -> str:
        numbers = ",".join(f"{id_}.{one.change_number}" for id_, one in sorted(statuses.items()))
        return hashlib.sha256(numbers.encode()).hexdigest()[:32]

    wait = _Wait(wait_seconds, until == "settled", if_none_match)
    statuses = await _after_waiting(served.watch, read, tag, wait)
    view = TaskStatuses(
        contents=[statuses[one] for one in wanted if one in statuses],
        missing=[one for one in wanted if one not in statuses],
    )
    return _tagged(request, view, tag(statuses), if_none_match)


@router.get(f"{TASK_PATH}/status", response_model=Envelope[TaskStatus], summary="Show the status of a task")
async def get_status(
    request: Request,
    principal: Viewer,
    served: Served,
    task_id: TaskPathId,
    *,
    wait_seconds: WaitSeconds = 0,
    until: Until = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return the task's status; with waitSeconds when it changes, or settles."""

    def read() -> Statuses:
        statuses = task_statuses(served.engine, [task_id], account=principal.account)
        if not statuses:
            raise no_task(task_id)
        return statuses

    def tag(statuses: Statuses) -> str:
        return "".join(str(one.change_number) for one in statuses.values())

    statuses = await _after_waiting(served.watch, read, tag, _Wait(wait_seconds, until == "settled", if_none_match))
    return _tagged(request, statuses[task_id], tag(statuses), if_none_match)


async def _after_waiting(
    watch: Watch, read: Callable[[], Statuses], tag: Callable[[Statuses], str], wait: _Wait
) -> Statuses:
    """Return the statuses, at once or when what is waited for has happened or the time is over.

    What is answered is read afresh: the caller may know more by now than the poll.
    """
    first = await run_in_threadpool(read)
    deadline = monotonic() + wait.seconds
    if wait.seconds == 0 or not first or wait.is_over(first, first, tag):
        return first

    def is_over(newest: Mapping[TaskId, TaskStatus | None]) -> bool:
        merged = {**first, **newest}
        return wait.is_over(first, {id_: one for id_, one in merged.items() if one is not None}, tag)

    with watch.tasks(list(first)) as following:
        while True:
            with anyio.move_on_after(deadline - monotonic()):
                await following.until(is_over)
            now = await run_in_threadpool(read)
            if following.stopped or monotonic() >= deadline or wait.is_over(first, now, tag):
                return now
            following.values |= now  # it was over for a moment only


def _tagged(request: Request, view: TaskStatus | TaskStatuses, tag: str, known: str | None) -> Response:
    headers = {"ETag": quoted(tag), "Cache-Control": "no-cache"}
    if is_known(tag, known):
        return Response(status_code=304, headers=headers)
    return answer(request, view, headers=headers)
