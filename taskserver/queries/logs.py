"""A subtask's log: what its attempts wrote, in order, each after its separator.

Separators are not stored: they are made from the attempts when the log is read. A cursor is the last chunk that was read
(claim number and sequence; -1 stands for the separator), so whatever is appended later comes after it. Claim numbers of one
subtask ascend with time, hence the order never changes. An attempt that has written nothing shows its separator only when
it has ended: a claim may be handed back without ever having begun.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import NamedTuple

from sqlalchemy import Engine, RowMapping, text

from schema.identity import SubtaskId, TaskId
from schema.states import ENDED_SUBTASK_STATES, Operation, SubtaskState, TaskState
from taskserver.projection import is_settled, wire_time
from taskserver.queries.details import no_task
from taskserver.queries.reading import one_statement
from taskserver.queries.subtasks import no_subtask
from taskserver.views.subtasks import LogText

ANSWER_BYTES = 16 * 1024 * 1024
_TAIL_BYTES, _TAIL_GROWTH = 128 * 1024, 8
_SEPARATOR_PLACE = -1
_SEQUENCE_MOST = 999_999_999
_FENCE = "#" * 12
CURSOR = r"[0-9]{1,18}\.(-1|[0-9]{1,9})"


class Cursor(NamedTuple):
    """The last chunk that was read."""

    claim: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.claim}.{self.sequence}"

    @classmethod
    def parse(cls, written: str) -> "Cursor":
        """Read a cursor that an answer gave: a text like `CURSOR`."""
        claim, _, sequence = written.partition(".")
        return cls(int(claim), int(sequence))


START = Cursor(0, _SEPARATOR_PLACE)

_PART_OF = """
SELECT (SELECT task_id FROM subtask_specs WHERE id = :subtask) = t.id AS exists, part.*
FROM tasks AS t LEFT JOIN LATERAL (
    WITH attempts AS (
        SELECT claim, attempt, operation, claimed_at AS started_at, true AS ended FROM subtask_attempts WHERE subtask_id = :subtask
        UNION ALL
        SELECT claim, attempt, operation, started_at, false FROM subtasks WHERE id = :subtask AND claim IS NOT NULL
    ), chunks AS (
        SELECT l.claim, l.sequence, l.text, l.written_at,
            CASE WHEN (l.claim, l.sequence) = (:claim, :sequence) THEN 0 ELSE octet_length(l.text) END AS bytes
        FROM subtask_logs AS l
        WHERE l.subtask_id = :subtask AND (l.claim, l.sequence) >= (:claim, :sequence)
    ), entries AS (
        SELECT claim, sequence, written_at, bytes FROM chunks
        UNION ALL
        SELECT a.claim, -1, a.started_at, 0 FROM attempts AS a
        WHERE (a.ended OR EXISTS (SELECT FROM subtask_logs AS l WHERE l.subtask_id = :subtask AND l.claim = a.claim))
            AND (a.claim, -1) >= (:claim, :sequence)
        UNION ALL
        SELECT l.claim, -1, min(l.written_at), 0 FROM subtask_logs AS l
        WHERE l.subtask_id = :subtask AND (l.claim, -1) >= (:claim, :sequence)
            AND l.claim NOT IN (SELECT claim FROM attempts)
        GROUP BY l.claim
    ), measured AS (
        SELECT e.*, sum(e.bytes) OVER ({window}) - e.bytes AS bytes_before, count(*) OVER () AS entries
        FROM entries AS e
        WHERE CAST(:attempt AS integer) IS NULL OR e.claim IN (SELECT claim FROM attempts WHERE attempt = :attempt)
    )
    SELECT m.claim, m.sequence, c.text, a.operation, coalesce(a.started_at, m.written_at) AS started_at, m.entries
    FROM measured AS m LEFT JOIN chunks AS c ON c.claim = m.claim AND c.sequence = m.sequence
        LEFT JOIN attempts AS a ON a.claim = m.claim
    WHERE m.bytes_before < :most
) AS part ON (SELECT task_id FROM subtask_specs WHERE id = :subtask) = t.id
WHERE t.id = :task AND t.account = :account
ORDER BY part.claim, part.sequence
"""
_FORWARD = text(_PART_OF.replace("{window}", "ORDER BY e.claim, e.sequence"))
_BACKWARD = text(_PART_OF.replace("{window}", "ORDER BY e.claim DESC, e.sequence DESC"))


@dataclass(frozen=True, slots=True)
class LogQuestion:
    """Which part of the log: after a cursor, of one attempt, only the last lines, at most about so many bytes."""

    after: Cursor = START
    attempt: int | None = None
    tail: int | None = None
    most_bytes: int | None = None


def subtask_log(engine: Engine, task: TaskId, subtask: SubtaskId, question: LogQuestion, *, account: str) -> LogText:
    """Return a part of the log, at most about 16 MiB; the cursor goes on from there.

    Raises:
        NotFound: The account has no such task, or the task no such subtask.

    """
    read = partial(_rows, engine, task, subtask, account=account)
    return _text_of(read(question) if question.tail is None else _last_rows(read, question), question)


def log_beginning(engine: Engine, task: TaskId, subtask: SubtaskId, question: LogQuestion, *, account: str) -> LogText:
    """Return the first part for who reads on from its cursor; unlike in `subtask_log` the last lines may come in parts.

    Raises:
        NotFound: The account has no such task, or the task no such subtask.

    """
    if question.tail is None:
        return subtask_log(engine, task, subtask, question, account=account)
    rows = _last_rows(partial(_rows, engine, task, subtask, account=account), question)
    start, characters = _before_last_lines(rows, question)
    part = subtask_log(engine, task, subtask, replace(question, after=start, tail=None), account=account)
    return LogText(log=part.log[characters:], cursor=part.cursor, more=part.more)


def _rows(engine: Engine, task: TaskId, subtask: SubtaskId, question: LogQuestion, *, account: str) -> list[RowMapping]:
    parameters = {
        "task": task,
        "subtask": subtask,
        "account": account,
        "claim": question.after.claim,
        "sequence": question.after.sequence,
        "attempt": question.attempt,
        "most": ANSWER_BYTES if question.most_bytes is None else question.most_bytes,
    }
    with one_statement(engine) as connection:
        statement = _FORWARD if question.tail is None else _BACKWARD
        rows = connection.execute(statement, parameters).mappings().all()
    if not rows:
        raise no_task(task)
    if not rows[0]["exists"]:
        raise no_subtask(task, subtask)
    return [row for row in rows if row["claim"] is not None]


@dataclass(frozen=True, slots=True)
class LogMark:
    """How far a subtask and its log have come, for telling whether there is more to read, or to come."""

    state: SubtaskState
    task_settled: bool
    last_chunk: tuple[int, int] | None
    ended_claim: int | None
    ended_attempt: int

    def is_last(self, attempt: int | None = None) -> bool:
        """Tell whether nothing will be added, to the log or to that attempt of it, unless somebody uses a verb."""
        if attempt is not None and self.ended_attempt >= attempt:
            return True
        return self.task_settled or self.state in ENDED_SUBTASK_STATES


_MARKS = text(
    """
SELECT s.id, s.state, t.state AS task_state, chunk.claim, chunk.sequence, ended.claim AS ended_claim, ended.attempt
FROM subtasks AS s JOIN tasks AS t ON t.id = s.task_id
    LEFT JOIN LATERAL (
        SELECT claim, sequence FROM subtask_logs WHERE subtask_id = s.id ORDER BY claim DESC, sequence DESC LIMIT 1
    ) AS chunk ON true
    LEFT JOIN LATERAL (
        SELECT claim, attempt FROM subtask_attempts WHERE subtask_id = s.id ORDER BY claim DESC LIMIT 1
    ) AS ended ON true
WHERE s.id = ANY (CAST(:ids AS bigint[]))
"""
)


def log_marks(
    engine: Engine, ids: Collection[SubtaskId], _known: Mapping[SubtaskId, LogMark | None]
) -> dict[SubtaskId, LogMark | None]:
    """Return the marks of the subtasks, None for one that is gone; for followers whose right has been checked.

    What is read after a mark holds at least what the mark tells of: an attempt's last chunks are committed with its end.
    """
    marks: dict[SubtaskId, LogMark | None] = dict.fromkeys(ids)
    with one_statement(engine) as connection:
        for row in connection.execute(_MARKS, {"ids": list(ids)}).mappings():
            marks[SubtaskId(row["id"])] = LogMark(
                state=SubtaskState(row["state"]),
                task_settled=is_settled(TaskState(row["task_state"])),
                last_chunk=None if row["claim"] is None else (row["claim"], row["sequence"]),
                ended_claim=row["ended_claim"],
                ended_attempt=row["attempt"] or 0,
            )
    return marks


def _text_of(rows: list[RowMapping], question: LogQuestion) -> LogText:
    log = "".join(_pieces(rows, question.after))
    last = Cursor(rows[-1]["claim"], rows[-1]["sequence"]) if rows else question.after
    if question.tail is not None:
        return LogText(log=_last_lines(log, question.tail), cursor=str(last))
    return LogText(log=log, cursor=str(last), more=True if _is_cut(rows) else None)


def _last_rows(read: Callable[[LogQuestion], list[RowMapping]], question: LogQuestion) -> list[RowMapping]:
    """Read from the end until the last lines are there: they are mostly few, and the log may be long."""
    most = _TAIL_BYTES
    while True:
        most = min(most, ANSWER_BYTES)
        rows = read(replace(question, most_bytes=most))
        lines = sum(piece.count("\n") for piece in _pieces(rows, question.after))
        if most == ANSWER_BYTES or lines > (question.tail or 0) or not _is_cut(rows):
            return rows
        most *= _TAIL_GROWTH


def _is_cut(rows: list[RowMapping]) -> bool:
    return bool(rows) and rows[0]["entries"] > len(rows)


def _before_last_lines(rows: list[RowMapping], question: LogQuestion) -> tuple[Cursor, int]:
    """Return after what one must read to get the last lines, and how many characters too many come first."""
    pieces = list(_pieces(rows, question.after))
    wanted = len(_last_lines("".join(pieces), question.tail or 0))
    places = [Cursor(row["claim"], row["sequence"]) for row in rows]
    while wanted > 0:
        place, piece = places.pop(), pieces.pop()
        wanted -= len(piece)
        if wanted <= 0:
            return places[-1] if places else _before(place), -wanted
    return places[-1] if places else question.after, 0


def _before(place: Cursor) -> Cursor:
    if place.sequence > _SEPARATOR_PLACE:
        return Cursor(place.claim, place.sequence - 1)
    return Cursor(place.claim - 1, _SEQUENCE_MOST)


def _pieces(rows: list[RowMapping], after: Cursor) -> Iterator[str]:
    at_line_start = True
    for row in rows:
        if row["sequence"] == _SEPARATOR_PLACE:
            written = _separator(row["operation"], row["started_at"], at_line_start=at_line_start)
        else:
            written = row["text"]
        if written:
            at_line_start = written.endswith("\n")
        # The chunk at the cursor is read again only for how its last line ends.
        if (row["claim"], row["sequence"]) > after:
            yield written


def _separator(operation: str | None, started_at: datetime, *, at_line_start: bool) -> str:
    line = f"{_FENCE}{{{operation or Operation.EXECUTE}}}{{{wire_time(started_at)}}}{_FENCE}\n"
    return line if at_line_start else "\n" + line


def _last_lines(log: str, count: int) -> str:
    start = len(log) - 1 if log.endswith("\n") else len(log)
    for _ in range(count):
        start = log.rfind("\n", 0, start)
        if start < 0:
            return log
    return log[start + 1 :] if count else ""
