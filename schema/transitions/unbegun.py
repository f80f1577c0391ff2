"""Ending what was claimed, has not begun, and is asked to stop: CANCELING → FAILED, in the name of the process that holds it.

For a worker's main process, where a handler holds the interpreter: the process that has the claim cannot speak for itself, nor
give way. It must make sure that the process does not take them up any more.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId
from schema.transitions import logs, progress, records
from schema.transitions.records import Outcome

_MESSAGE = "the attempt was asked to stop before it began, behind one that holds its process"
_UNBEGUN = text(
    """
SELECT id, started_at, greatest(now(), started_at) AS now FROM subtasks
WHERE id = ANY (CAST(:ids AS bigint[])) AND task_id = :task AND claim = :claim AND process = :process
    AND state = 'CANCELING'
ORDER BY id
"""
)


def end_unbegun(
    connection: Connection, task: TaskId, ids: Sequence[SubtaskId], *, claim: int, process: int, carrier: int
) -> list[SubtaskId]:
    """End those that are still held; return their ids. The transaction must be durable and hold no lock yet.

    Args:
        connection: The transaction.
        task: Whose.
        ids: What of the claim was asked to stop and has not begun.
        claim: The claim.
        process: Who holds it.
        carrier: The carrier number of the unit that brought them.

    Raises:
        NotFound: There is no such task.

    """
    locked = progress.lock(connection, task)
    parameters = {"ids": list(ids), "task": task, "claim": claim, "process": process}
    held = connection.execute(_UNBEGUN, parameters).mappings().all()
    if not held:
        return []
    logs.append_lines(connection, claim, {row["id"]: f"cancelled: {_MESSAGE}" for row in held})
    outcomes = [
        Outcome(
            row["id"],
            "FAILED",
            started_at=row["started_at"],
            finished_at=row["now"],
            error_type="cancelled",
            error_message=_MESSAGE,
            begun=False,
        )
        for row in held
    ]
    return sorted(records.record(connection, locked, outcomes, claim=claim, carrier=carrier).ids)
