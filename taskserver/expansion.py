"""From a submission to the subtasks that are stored: everything checked, foreach expanded, defaults of kinds filled in.

Pure. Checks come before construction, and limits before what they limit: a cross product is counted before any of its edges
exists. Subtasks stand in topological order and know each other by series id, their place in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schema.documents.problems import Problems
from schema.documents.reference_checks import note_bad_graph, note_bad_references, note_unknown_kinds
from schema.documents.specification import Submission
from schema.kinds import KindInfo
from schema.limits import DEFAULT_LIMITS, Limits
from schema.pointers import BadReference
from schema.references import ResultReference
from schema.storable import check_stored_size
from taskserver.construction import Construction, ExpandedSubtask
from taskserver.layout import Elements, foreach_elements, lay_out

__all__ = ["ExpandedSubtask", "ExpandedTask", "expand"]

_DEFAULT_CONCURRENCY = 10  # what -1 stands for


@dataclass(frozen=True, slots=True)
class ExpandedTask:
    """A submission with its subtasks, upstreams before downstreams."""

    submission: Submission
    subtasks: tuple[ExpandedSubtask, ...]
    edge_count: int

    @property
    def concurrency(self) -> int | None:
        """How many of its subtasks may have begun at once; None is no limit."""
        given = self.submission.concurrency
        return _DEFAULT_CONCURRENCY if given == -1 else given or None


def expand(submission: Submission, *, kinds: Mapping[str, KindInfo], limits: Limits = DEFAULT_LIMITS) -> ExpandedTask:
    """Return the subtasks that a submission stands for; its definition, if any, has been filled in by the caller.

    Raises:
        InvalidGraph: the graph, a kind or a reference is wrong, or the graph is too large.
        InvalidArgument: constant arguments are not what their kind takes.
        TooLarge: arguments take more than may be stored.
    """
    check_stored_size(submission.arguments, "/arguments", "the task's arguments", limits)
    subtasks = submission.subtasks or ()
    problems = Problems()
    dag = note_bad_graph(subtasks, problems)
    note_unknown_kinds(subtasks, kinds, problems)
    note_bad_references(subtasks, dag, problems, arguments=submission.arguments)
    elements = _note_elements(submission, problems)
    problems.raise_if_any()
    _refuse_unavailable(submission)
    assert dag is not None  # only a problem leaves no graph
    layout = lay_out(subtasks, elements, dag, limits)
    expanded = tuple(Construction(kinds, problems, limits).subtasks_of(layout))
    problems.raise_if_any()
    return ExpandedTask(submission, expanded, layout.edge_count)


def _refuse_unavailable(submission: Submission) -> None:
    """Refuse what a document may say already but nothing can run yet: the one place to open when it can."""
    problems = Problems()
    if submission.callback_url is not None:
        problems.argument("/callbackUrl", "callbackUrl is not available in this version: leave it out")
    for index, subtask in enumerate(submission.subtasks or ()):
        if subtask.when is not None:
            problems.argument(f"/subtasks/{index}/when", "when is not available in this version: leave it out")
        if subtask.wait_for is not None:
            problems.argument(f"/subtasks/{index}/waitFor", "waitFor is not available in this version: leave it out")
        if isinstance(subtask.foreach_source, ResultReference):
            problems.argument(
                f"/subtasks/{index}/foreach", 'foreach over "$from" is not available in this version: give an array'
            )
    problems.raise_if_any()


def _note_elements(submission: Submission, problems: Problems) -> list[Elements]:
    elements: list[Elements] = []
    for index, subtask in enumerate(submission.subtasks or ()):
        try:
            elements.append(foreach_elements(subtask, submission.arguments))
        except BadReference as error:
            problems.graph(f"/subtasks/{index}/foreach", error.message)
    return elements
