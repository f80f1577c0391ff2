"""A task as a tree of nodes, each with its state and times, or one node of it: one narrow statement, whatever the size.

What a poller asks over and over, so nothing is read that the answer does not say: no edges, arguments, results or reasons. The
nodes travel as one JSON array per subtask, times as whole seconds since 1970.
"""

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Engine, RowMapping, text

from schema.documents.problems import QUOTED_LENGTH, shortened
from schema.errors import NotFound
from schema.identity import TaskId, split_hex, subtask_hex
from schema.states import TaskState
from taskserver.queries.reading import one_statement

HEX_LENGTH = 32
_LAST_SERIES = 2**32  # more than eight hex digits can name


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task by its number or hex id, or one of its subtasks: then `series` is its series id."""

    number: TaskId | None = None
    task_hex: str | None = None
    series: int | None = None

    @classmethod
    def of(cls, written: str) -> "Wanted":
        """Return what digits, or 32 hex digits, name."""
        if len(written) < HEX_LENGTH:
            return cls(number=TaskId(int(written)))
        task_hex, series = split_hex(written.lower())
        return cls(task_hex=task_hex, series=series)

    def __str__(self) -> str:
        """Return it as it was written."""
        if self.task_hex is None:
            return str(self.number)
        return self.task_hex if self.series is None else subtask_hex(self.task_hex, self.series)


class NodeStatus(NamedTuple):
    """One subtask as it stands; `error_type` and `error_message` are those of the last attempt where it FAILED."""

    series_id: int
    name: str
    state: str
    operation: str
    attempt: int
    generation: int
    allow_failure: bool
    started_at: int | None
    finalized_at: int | None
    error_type: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class StatusTree:
    """A task and its subtasks, or the one that was asked for; `now` is PostgreSQL's."""

    task_hex: str
    name: str
    state: TaskState
    started_at: int | None
    finalized_at: int | None
    now: int
    nodes: tuple[NodeStatus, ...]


def _seconds(moment: str) -> str:
    return f"floor(extract(epoch FROM {moment}))::bigint"


# subtask_specs is read by (task_id, series_id): the narrow subtasks table has no index on the task alone.
_TREE = text(
    f"""
SELECT t.task_id, t.name, t.state, {_seconds("t.started_at")} AS started_at, {_seconds("t.finalized_at")} AS finalized_at,
    {_seconds("now()")} AS now,
    (
        SELECT json_agg(json_build_array(d.series_id, coalesce(d.name, d.key), s.state, s.operation, s.attempt, s.generation,
            s.allow_failure, {_seconds("s.started_at")}, {_seconds("s.finalized_at")}, e.error_type, e.error_message)
            ORDER BY d.series_id)
        FROM subtask_specs AS d JOIN subtasks AS s ON s.id = d.id
            LEFT JOIN LATERAL (
                SELECT a.error_type, a.error_message FROM subtask_attempts AS a
                WHERE a.subtask_id = d.id AND s.state = 'FAILED' AND CAST(:with_errors AS boolean)
                ORDER BY a.claim DESC LIMIT 1
            ) AS e ON true
        WHERE d.task_id = t.id AND d.series_id BETWEEN CAST(:first AS bigint) AND CAST(:last AS bigint)
    ) AS nodes
FROM tasks AS t
WHERE (t.id = CAST(:number AS bigint) OR t.task_id = CAST(:hex AS text)) AND t.account = :account
    AND coalesce(t.biz_id, '') IN ('', :business)
"""
)


def status_tree(
    engine: Engine, wanted: Wanted, *, account: str, business: str, with_errors: bool = False
) -> StatusTree:
    """Return the task with all its subtasks, or with the wanted one alone.

    Args:
        engine: Where.
        wanted: Which task or subtask.
        account: Whose it must be.
        business: The bizId that the task must have; one that was submitted without is found for each.
        with_errors: Say of FAILED subtasks why.

    Raises:
        NotFound: There is none.

    """
    first, last = (0, _LAST_SERIES) if wanted.series is None else (wanted.series, wanted.series)
    parameters = {
        "number": wanted.number,
        "hex": wanted.task_hex,
        "account": account,
        "business": business,
        "first": first,
        "last": last,
        "with_errors": with_errors,
    }
    with one_statement(engine) as connection:
        row = connection.execute(_TREE, parameters).mappings().one_or_none()
    if row is None or (wanted.series is not None and row["nodes"] is None):
        raise NotFound(
            f"there is no task or node {wanted} in business {shortened(business, QUOTED_LENGTH)!r}: list the tasks with their bizId",
            target=str(wanted),
        )
    return _tree(row)


def _tree(row: RowMapping) -> StatusTree:
    return StatusTree(
        task_hex=row["task_id"],
        name=row["name"],
        state=TaskState(row["state"]),
        started_at=row["started_at"],
        finalized_at=row["finalized_at"],
        now=row["now"],
        nodes=tuple(NodeStatus._make(one) for one in row["nodes"] or ()),
    )
