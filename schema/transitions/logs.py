"""Writing what attempts log, in chunks.

A chunk counts only while its claim is held: so the last ones are written before the outcome, in its transaction. The same
chunk may be written twice, by the flusher and with the outcome; it is kept once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, text

from schema.identity import SubtaskId, TaskId
from schema.roundtrip import Request


@dataclass(frozen=True, slots=True)
class LogRow:
    """One chunk of an attempt's log: whole lines as far as they fit. The text holds no NUL and no lone surrogate."""

    task_id: TaskId
    subtask_id: SubtaskId
    claim: int
    sequence: int
    text: str


# Ordered, so that two writers of the same chunks wait for each other instead of deadlocking.
_WRITE = text(
    """
INSERT INTO subtask_logs (subtask_id, claim, sequence, task_id, text)
SELECT r.subtask_id, r.claim, r.sequence, r.task_id, r.text
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (
        task_id bigint, subtask_id bigint, claim bigint, sequence integer, text text)
    JOIN subtasks AS s ON s.id = r.subtask_id AND s.claim = r.claim
ORDER BY r.subtask_id, r.claim, r.sequence
ON CONFLICT (subtask_id, claim, sequence) DO NOTHING
"""
)


def write_logs(connection: Connection, rows: Sequence[LogRow]) -> None:
    """Store chunks of logs whose claims are still held; the others are dropped. Locks nothing that a move needs."""
    if rows:
        request = write_request(rows)
        connection.execute(request.statement, request.parameters)


def write_request(rows: Sequence[LogRow]) -> Request:
    """Return the statement that stores them."""
    return Request(_WRITE, {"rows": json.dumps([asdict(row) for row in rows], ensure_ascii=False)})


_APPEND = text(
    """
INSERT INTO subtask_logs (subtask_id, claim, sequence, task_id, text)
SELECT s.id, s.claim, coalesce((
        SELECT max(l.sequence) + 1 FROM subtask_logs AS l WHERE l.subtask_id = s.id AND l.claim = s.claim
    ), 0), s.task_id, a.line
FROM jsonb_each_text(CAST(:lines AS jsonb)) AS a (id, line) JOIN subtasks AS s ON s.id = CAST(a.id AS bigint)
WHERE s.claim = :claim
ON CONFLICT (subtask_id, claim, sequence) DO NOTHING
"""
)


def append_lines(connection: Connection, claim: int, lines: Mapping[SubtaskId, str]) -> None:
    """Say at the end of attempts' logs what their process could not say any more, because it has died."""
    ended = {str(subtask): f"{line}\n" for subtask, line in lines.items()}
    connection.execute(_APPEND, {"claim": claim, "lines": json.dumps(ended, ensure_ascii=False)})
