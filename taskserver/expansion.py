"""From a submission to the subtasks that are stored: everything checked, foreach expanded, defaults of kinds filled in.

Pure. Checks come before construction, and limits before what they limit: a cross product is counted before any of its edges
exists. Subtasks stand in topological order and know each other by series id, their place in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from schema.errors import InvalidGraph, TooLarge
from schema.kinds import KindInfo
from schema.limits import DEFAULT_LIMITS, Limits
from schema.pointers import BadReference, join_pointer
from schema.references import ItemReference, ResultReference, find_references, substitute_item
from schema.storable import stored_size
from taskserver.argument_checks import ArgumentChecker
from taskserver.dag import Dag
from taskserver.foreach import Span, foreach_elements, span_of
from taskserver.problems import Problems
from taskserver.reference_checks import note_bad_references, note_unknown_kinds
from taskserver.specification import Submission, Subtask

EMPTY_FOREACH_KIND = "builtin.noop"
_COUNTED_CONCURRENCY = 10  # what -1 stands for


@dataclass(frozen=True, slots=True)
class ExpandedSubtask:
    """A subtask as it is stored; `arguments` still hold `$arg`, `$from` and `$literal`."""

    series_id: int
    key: str
    template_key: str | None  # the key as written, where it comes from a foreach
    name: str
    description: str
    kind: str
    queue: str
    arguments: dict[str, object]
    upstreams: tuple[int, ...]  # series ids, ascending; siblings share one tuple
    parallel_idx: int  # -1 where it is no foreach element
    timeout: float | None
    max_attempts: int
    backoff_seconds: float
    prohibit_rollback: bool
    allow_failure: bool
    isolated: bool
    has_rollback: bool
    references: tuple[str, ...]  # keys as written whose results the arguments take


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
        return _COUNTED_CONCURRENCY if given == -1 else given or None


def expand(
    submission: Submission, *, kinds: Mapping[str, KindInfo], limits: Limits = DEFAULT_LIMITS
) -> ExpandedTask:
    """Return the subtasks that a submission stands for; its definition, if any, has been filled in by the caller.

    Raises:
        InvalidGraph: the graph, a kind or a reference is wrong, or the graph is too large.
        InvalidArgument: constant arguments are not what their kind takes.
        TooLarge: stored arguments are too large.
    """
    subtasks = submission.subtasks or ()
    problems = Problems()
    dag = _build_dag(submission, problems)
    note_unknown_kinds(subtasks, kinds, problems)
    note_bad_references(submission, dag, problems)
    problems.raise_if_any()
    _refuse_unavailable(submission)
    assert dag is not None
    layout = lay_out(subtasks, _elements(submission), dag, limits)
    _check_stored_size(submission.arguments, "/arguments", "the task's arguments", limits)
    expanded = tuple(_Construction(kinds, problems, limits).subtasks_of(layout))
    problems.raise_if_any()
    return ExpandedTask(submission, expanded, layout.edge_count)


def _refuse_unavailable(submission: Submission) -> None:
    """Refuse what documents may say already but nothing can run yet. The one place to open when it can."""
    problems = Problems()
    if submission.subtasks is None:
        problems.argument("/definition", "a definition is not available in this version: give subtasks")
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


def _build_dag(submission: Submission, problems: Problems) -> Dag | None:
    if submission.subtasks is None:
        return None
    try:
        return Dag.build((subtask.key, subtask.upstreams) for subtask in submission.subtasks)
    except InvalidGraph as error:
        place = next((index for index, subtask in enumerate(submission.subtasks) if subtask.key == error.target), None)
        problems.graph(join_pointer(("subtasks",) if place is None else ("subtasks", place)), error.message)
        return None


def _elements(submission: Submission) -> list[Elements]:
    problems = Problems()
    elements: list[Elements] = []
    for index, subtask in enumerate(submission.subtasks or ()):
        try:
            elements.append(foreach_elements(subtask, submission.arguments))
        except BadReference as error:
            problems.graph(f"/subtasks/{index}/foreach", error.message)
    problems.raise_if_any()
    return elements


def _check_stored_size(arguments: dict[str, object], field: str, whose: str, limits: Limits) -> int:
    size = stored_size(arguments)
    if size > limits.stored_bytes:
        raise TooLarge(
            f"{whose} take {size} bytes as JSON, at most {limits.stored_bytes} are stored: "
            "keep the data elsewhere and pass where it is",
            target=field,
        )
    return size


class _Construction:
    """Builds the subtasks of one layout, checking arguments and sizes as they come to be."""

    def __init__(self, kinds: Mapping[str, KindInfo], problems: Problems, limits: Limits) -> None:
        self._kinds = kinds
        self._checker = ArgumentChecker(kinds)
        self._problems = problems
        self._limits = limits
        self._stored = 0

    def subtasks_of(self, layout: Layout) -> Iterator[ExpandedSubtask]:
        for template in layout.templates:
            yield from self._expand(template)

    def _expand(self, template: Template) -> Iterator[ExpandedSubtask]:
        subtask, elements = template.subtask, template.elements
        if elements is None:
            arguments, size = self._checked(template, subtask.key, subtask.arguments)
            self._count(size, template)
            yield self._subtask(template, 0, arguments)
        elif not elements:
            yield self._empty_foreach(template)
        elif any(isinstance(found, ItemReference) for _, found in find_references(subtask.arguments)):
            for position, element in enumerate(elements):
                substituted = self._substituted(template, position, element)
                if substituted is not None:
                    yield self._subtask(template, position, substituted)
        else:
            arguments, size = self._checked(template, subtask.key, subtask.arguments)
            for position in range(len(elements)):
                self._count(size, template)
                yield self._subtask(template, position, arguments)

    def _substituted(self, template: Template, position: int, element: object) -> dict[str, object] | None:
        key, field = f"{template.subtask.key}[{position}]", f"/subtasks/{template.index}/arguments"
        try:
            arguments = substitute_item(template.subtask.arguments, element)
        except BadReference as error:
            self._problems.graph(field + (error.target or ""), f"subtask {key!r}: {error.message}", element)
            return None
        if not isinstance(arguments, dict):
            self._problems.argument(field, f"subtask {key!r}: arguments are an object, the element is not", element)
            return None
        arguments, size = self._checked(template, key, arguments)
        self._count(size, template)
        return arguments
