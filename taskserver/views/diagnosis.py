"""Why a task does not move, as it is answered."""

from typing import Literal

from pydantic import Field

from schema.states import TaskState
from taskserver.views.view import HexId, Id, View


class FindingView(View):
    """One cause why a task does not move."""

    type: str = Field(
        description="One of row_locked, broker, failed, rollback_failed, deadline, task_failed, paused, canceling, worker_lost,"
        " no_worker, kind_unknown, message_lost, messages_not_taken, dispatcher, limit, overlong, duplicate, start_at, retry,"
        " signal, inconsistent."
    )
    severity: Literal["error", "warning", "info"] = Field(
        description="error: it moves only if somebody acts; warning: somebody should look; info: it waits as it was told to."
    )
    message: str
    cure: str = Field(description="What to do about it.")
    subtasks: list[Id] | None = Field(None, description="Some of those that it is about.")
    subtask_count: int | None = Field(None, description="How many it is about.")


class DiagnosisView(View):
    """Why a task does not move; no findings where it moves, or waits for its turn."""

    id: Id
    task_id: HexId
    state: TaskState
    summary: str = Field(description="How it stands, in one sentence.")
    findings: list[FindingView]
