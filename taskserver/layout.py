"""Where each subtask of an expanded graph will stand: series ids, spans and edges of the templates, counted but not built.

A template is one subtask as written. What a foreach becomes: parallel elements are siblings, so that an edge of the template
becomes one edge per element; serial ones are a chain, so that upstreams attach to its first and downstreams to its last. A
foreach without elements stays as one node under its bare key, as it does when the list turns out empty while the task runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from schema.documents.dag import Dag
from schema.documents.subtask import Subtask
from schema.errors import InvalidGraph
from schema.limits import Limits
from schema.pointers import BadReference, follow
from schema.references import ArgumentReference, resolve

Elements = Sequence[object] | None


@dataclass(frozen=True, slots=True)
class Template:
    """A subtask as written, with its place in the expanded graph."""

    index: int  # in the submission
    subtask: Subtask
    elements: Elements  # None: no foreach
    first: int  # the first of its consecutive series ids
    upstreams: tuple[int, ...]  # series ids that its entries wait for, ascending

    @property
    def serial(self) -> bool:
        """Whether its elements are a chain."""
        return self.subtask.mode == "serial"

    @property
    def count(self) -> int:
        """How many subtasks it becomes."""
        return 1 if self.elements is None else max(len(self.elements), 1)

    @property
    def entries(self) -> int:
        """How many of its subtasks wait for its upstreams."""
        return 1 if self.serial else self.count

    @property
    def exits(self) -> range:
        """The series ids that its downstreams wait for."""
        end = self.first + self.count
        return range(end - 1 if self.serial else self.first, end)

    @property
    def kind(self) -> str:
        """The kind of its subtasks; one that has none has been refused before it got here."""
        assert self.subtask.kind is not None
        return self.subtask.kind

    @property
    def arguments_field(self) -> str:
        """Where its arguments stand in the submission."""
        return f"/subtasks/{self.index}/arguments"

    def key_of(self, position: int) -> str:
        """Return the key of its subtask at this position."""
        return self.subtask.key if self.elements is None else f"{self.subtask.key}[{position}]"

    def upstreams_of(self, position: int) -> tuple[int, ...]:
        """Return the direct upstreams of its subtask at this position."""
        return (self.first + position - 1,) if self.serial and position else self.upstreams


@dataclass(frozen=True, slots=True)
class Layout:
    """All templates, upstreams before downstreams, and how many edges they will have."""

    templates: tuple[Template, ...]
    edge_count: int


def foreach_elements(subtask: Subtask, arguments: Mapping[str, object]) -> Elements:
    """Return the elements that are known at submission, None where there is no foreach or it expands later.

    Raises:
        BadReference: the task's arguments hold no array at the pointer.
    """
    if isinstance(subtask.foreach, list):
        source, elements = "the list", resolve(subtask.foreach, arguments={}, results={})
    elif isinstance(reference := subtask.foreach_source, ArgumentReference):
        source, elements = (
            f'{{"$arg": {reference.pointer!r}}}',
            follow(reference.pointer, arguments, within="the task's arguments"),
        )
    else:
        return None
    if not isinstance(elements, list):
        raise BadReference(
            f"the foreach of subtask {subtask.key!r} takes {source}, which is not an array in the task's arguments: "
            "give an array there"
        )
    return elements


def lay_out(subtasks: Sequence[Subtask], elements: Sequence[Elements], dag: Dag, limits: Limits) -> Layout:
    """Return where everything stands, in the topological order of the templates.

    Raises:
        InvalidGraph: expanded, there would be too many subtasks or edges; nothing of them has been built.
    """
    _check_subtask_count(elements, limits)
    placed: dict[int, Template] = {}
    first = edge_count = 0
    for place in dag.order:
        above = [placed[upstream] for upstream in dag.upstreams[place]]
        # Its upstreams come last: their number is checked before the tuple is made.
        template = Template(place, subtasks[place], elements[place], first, ())
        edge_count += sum(len(upstream.exits) for upstream in above) * template.entries
        edge_count += template.count - template.entries if template.serial else 0
        if edge_count > limits.edges:
            raise _too_many_edges(template.subtask.key, limits)
        upstreams = tuple(sorted(series_id for upstream in above for series_id in upstream.exits))
        placed[place] = replace(template, upstreams=upstreams)
        first += template.count
    return Layout(tuple(placed.values()), edge_count)


def _check_subtask_count(elements: Sequence[Elements], limits: Limits) -> None:
    count = sum(1 if given is None else max(len(given), 1) for given in elements)
    if count > limits.subtasks:
        raise InvalidGraph(
            f"with foreach expanded the task has {count} subtasks, at most {limits.subtasks} are taken (TASKSERVER_MAX_SUBTASKS): "
            "give each element more to do, or submit several tasks",
            target="/subtasks",
        )


def _too_many_edges(key: str, limits: Limits) -> InvalidGraph:
    return InvalidGraph(
        f"with foreach expanded the task has more than {limits.edges} edges (TASKSERVER_MAX_EDGES), counted up to subtask {key!r}: "
        "two parallel foreach next to each other have one edge per pair of elements; put one subtask between them, "
        "which makes it one edge per element",
        target="/subtasks",
    )
