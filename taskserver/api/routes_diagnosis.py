"""Why a task does not move, and what to do about it."""

from fastapi import APIRouter, Depends, Request, Response

from schema.main_api import PREFIX
from taskserver.api.authentication import Viewer
from taskserver.api.documentation import ERRORS
from taskserver.api.envelope import Envelope, answer
from taskserver.api.parameters import TASK_PATH, TaskPathId
from taskserver.api.services import Served
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.diagnosis.examination import examine
from taskserver.diagnosis.finding import Finding
from taskserver.views.diagnosis import DiagnosisView, FindingView

router = APIRouter(
    prefix=f"{PREFIX}/instances", tags=["tasks"], responses=ERRORS, dependencies=[Depends(refuse_unknown_parameters)]
)


@router.get(f"{TASK_PATH}/diagnosis", response_model=Envelope[DiagnosisView], summary="Tell why a task does not move")
def get_diagnosis(request: Request, principal: Viewer, served: Served, task_id: TaskPathId) -> Response:
    """Return what holds the task up, each with its cure; nothing for a task that moves or waits for its turn.

    Where work seems to lie that should move, it looks on for three seconds before it says so.
    """
    found = examine(served.engine, served.redis, served.settings, task_id, account=principal.account)
    course = found.facts.stored.course
    view = DiagnosisView(
        id=course.id,
        task_id=course.task_hex,
        state=course.state,
        summary=found.summary,
        findings=[_view_of(one) for one in found.findings],
    )
    return answer(request, view)


def _view_of(finding: Finding) -> FindingView:
    return FindingView(
        type=finding.type,
        severity=finding.severity.value,
        message=finding.message,
        cure=finding.cure,
        subtasks=list(finding.subtasks) or None,
        subtask_count=finding.subtask_count,
    )
