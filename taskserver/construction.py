"""Builds the subtasks of a laid-out graph: `$item` substituted, defaults of kinds filled in, arguments and sizes checked.

Memory follows what is distinct: siblings share one tuple of upstreams, and one arguments object where `$item` does not tell
them apart. All sizes count what will be stored, once per subtask.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schema.documents.argument_checks import ArgumentChecker
from schema.documents.problems import Problems
from schema.errors import TooLarge
from schema.kinds import KindInfo
from schema.limits import Limits
from schema.pointers import BadReference
from schema.references import ItemReference, ResultReference, find_references, substitute_item
from schema.storable import check_stored_size
from taskserver.layout import Layout, Template

EMPTY_FOREACH_KIND = "builtin.noop"


@dataclass(frozen=True, slots=True)
class ExpandedSubtask:
    """A subtask as it is stored; `arguments` still hold `$arg`, `$from` and `$literal`."""

    series_id: int
    key: str
    template_key: str | None  # the key as written, where there is a foreach
    name: str
    description: str
    kind: str
    queue: str
    arguments: dict[str, object]
    upstreams: tuple[int, ...]  # series ids, ascending
    parallel_idx: int  # -1 where it is no foreach element
    timeout: float | None
    max_attempts: int
    backoff_seconds: float
    prohibit_rollback: bool
    allow_failure: bool
    isolated: bool
    has_rollback: bool
    references: tuple[str, ...]  # keys as written whose results the arguments take


class Construction:
    """Builds the subtasks of one layout; wrong arguments are noted as problems."""

    def __init__(self, kinds: Mapping[str, KindInfo], problems: Problems, limits: Limits) -> None:
        self._kinds = kinds
        self._checker = ArgumentChecker(kinds)
        self._problems = problems
        self._limits = limits
        self._stored = 0

    def subtasks_of(self, layout: Layout) -> Iterator[ExpandedSubtask]:
        """Yield the subtasks by series id; those whose arguments cannot be made are left out and noted.

        Raises:
            TooLarge: arguments take more than may be stored, alone or together.
            InvalidGraph: a kind is registered with a schema that is none.
        """
        for template in layout.templates:
            if template.elements is not None and not template.elements:
                yield self._empty_foreach(template)
            else:
                yield from self._expand(template)

    def _expand(self, template: Template) -> Iterator[ExpandedSubtask]:
        found = [reference for _, reference in find_references(template.subtask.arguments)]
        results = tuple(dict.fromkeys(reference.key for reference in found if isinstance(reference, ResultReference)))
        if template.elements is not None and any(isinstance(reference, ItemReference) for reference in found):
            for position, element in enumerate(template.elements):
                arguments = self._substituted(template, position, element)
                if arguments is not None:
                    self._count(self._checked(template, template.key_of(position), arguments), template)
                    yield self._subtask(template, position, arguments, results)
            return
        arguments = template.subtask.arguments
        size = self._checked(template, template.subtask.key, arguments)
        for position in range(template.count):
            self._count(size, template)
            yield self._subtask(template, position, arguments, results)

    def _substituted(self, template: Template, position: int, element: object) -> dict[str, object] | None:
        whose = f"subtask {template.key_of(position)!r}"
        try:
            arguments = substitute_item(template.subtask.arguments, element)
        except BadReference as error:
            self._problems.graph(template.arguments_field + (error.target or ""), f"{whose}: {error.message}", element)
            return None
        if isinstance(arguments, dict):
            return arguments
        self._problems.argument(
            template.arguments_field, f"{whose}: arguments are an object, but this foreach element is none", element
        )
        return None

    def _checked(self, template: Template, key: str, arguments: dict[str, object]) -> int:
        """Note what the kind does not take, and return the size of the arguments as stored."""
        for wrong in self._checker.wrong_arguments(template.kind, arguments):
            self._problems.argument(
                template.arguments_field + wrong.pointer, f"subtask {key!r}: {wrong.message}", wrong.value
            )
        return check_stored_size(arguments, template.arguments_field, f"the arguments of subtask {key!r}", self._limits)

    def _count(self, size: int, template: Template) -> None:
        self._stored += size
        if self._stored > self._limits.expanded_bytes:
            raise TooLarge(
                f"the arguments of all subtasks together take more than {self._limits.expanded_bytes} bytes, counted up to "
                f'{template.subtask.key!r}: put what they share into the task\'s arguments and take it by {{"$arg": …}}',
                target=template.arguments_field,
            )

    def _subtask(
        self, template: Template, position: int, arguments: dict[str, object], results: tuple[str, ...]
    ) -> ExpandedSubtask:
        written, kind = template.subtask, self._kinds[template.kind]
        key = template.key_of(position)
        return ExpandedSubtask(
            series_id=template.first + position,
            key=key,
            template_key=None if template.elements is None else written.key,
            name=written.name or key,
            description=key if written.description is None else written.description,
            kind=kind.name,
            queue=written.queue or kind.queue,
            arguments=arguments,
            upstreams=template.upstreams_of(position),
            parallel_idx=-1 if template.elements is None else position,
            timeout=kind.timeout if written.timeout is None else written.timeout,
            max_attempts=written.max_attempts or kind.max_attempts,
            backoff_seconds=kind.backoff_seconds if written.backoff_seconds is None else written.backoff_seconds,
            prohibit_rollback=kind.prohibit_rollback
            if written.prohibit_rollback is None
            else written.prohibit_rollback,
            allow_failure=written.allow_failure,
            isolated=kind.isolated,
            has_rollback=kind.has_rollback,
            references=results,
        )

    def _empty_foreach(self, template: Template) -> ExpandedSubtask:
        """Return the node that stays: it keeps the edges together, and its template's result is the empty list."""
        written = template.subtask
        return ExpandedSubtask(
            series_id=template.first,
            key=written.key,
            template_key=written.key,
            name=written.name or written.key,
            description=written.key if written.description is None else written.description,
            kind=EMPTY_FOREACH_KIND,
            queue=written.queue or self._kinds[template.kind].queue,
            arguments={},
            upstreams=template.upstreams,
            parallel_idx=-1,
            timeout=None,
            max_attempts=1,
            backoff_seconds=0.0,
            prohibit_rollback=False,
            allow_failure=False,
            isolated=False,
            has_rollback=False,
            references=(),
        )
