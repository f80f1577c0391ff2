"""The one Celery task: decode the message, hand it to the runner, and let the canvas go on only from a clean unit."""

from celery import Celery, Task
from structlog import get_logger

from schema.wire import UNIT_TASK, UnitMessage
from workers.runtime import Runtime

_log = get_logger("taskserver.worker")


def register_tasks(app: Celery, runtime: Runtime) -> None:
    """Register the unit task on the application."""

    # Celery's own events would tell of the unit under the id of its first subtask, and contradict what happened to that.
    @app.task(name=UNIT_TASK, bind=True, ignore_result=True, send_events=False)
    def unit(task: Task, *arguments: object) -> None:
        request = task.request
        try:
            message = UnitMessage.decode(list(arguments))
        except ValueError as error:
            _log.error("message refused", action="decode", celery_id=request.id, error=str(error))
            request.chain = None
            return
        clean = runtime.unit_runner().run(message, kind=getattr(request, "shadow", None) or "")
        if not clean:
            request.chain = None  # what would have followed is the dispatcher's now; a chord header still counts
