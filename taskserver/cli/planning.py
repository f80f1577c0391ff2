"""The `plan` command: what a submission would become, without submitting it."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schema.errors import Invalid, TaskserverError, Unavailable
from schema.kinds import KindInfo
from taskserver.cli.connection import DataOption, JsonOption, connect
from taskserver.cli.definitions import document_of
from taskserver.cli.documents import read_submission
from taskserver.cli.exits import EPILOG
from taskserver.cli.output import console, print_json

if TYPE_CHECKING:
    from rich.tree import Tree

_SHOWN_KEYS = 4


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EPILOG)(plan)


def plan(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A submission in JSON; - is standard input.")],
    *,
    slots: Annotated[int, typer.Option(help="Plan for so many subtasks at once.", min=1)] = 4,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a submission and show the chains and chords it becomes, without submitting it.

    Kinds are those that the server knows, if it can be reached; otherwise every kind counts as known and its arguments
    are not checked.
    """
    submission = read_submission(file)
    document = _planned(submission, _definition_of(submission, data), _known_kinds(data), slots)
    if as_json:
        print_json(document)
    elif mermaid:
        sys.stdout.write(document["mermaid"])
    else:
        _print_tree(document)


def _planned(
    document: Mapping[str, Any],
    definition: Mapping[str, Any] | None,
    kinds: Mapping[str, KindInfo] | None,
    slots: int,
) -> dict[str, Any]:
    # Not at the top: the schema library behind them is slow to import, and other commands do without.
    from schema.documents.definition import read_definition
    from schema.documents.filling import fill
    from schema.documents.specification import parse_submission
    from taskserver.expansion import expand
    from taskserver.plan_view import plan_document
    from taskserver.planner import PlanNode
    from taskserver.planner import plan as plan_graph

    submission = parse_submission(document)
    if definition is not None:
        submission = fill(submission, read_definition(definition))
    named = {one.kind for one in submission.subtasks or () if one.kind is not None}
    expanded = expand(submission, kinds={name: KindInfo(name) for name in named} if kinds is None else kinds)
    nodes = [PlanNode(one.series_id, queue=one.queue, isolated=one.isolated) for one in expanded.subtasks]
    edges = [(upstream, one.series_id) for one in expanded.subtasks for upstream in one.upstreams]
    planned = plan_graph(nodes, edges, slots={node.queue: slots for node in nodes})
    return plan_document(planned, {one.series_id: one.key for one in expanded.subtasks}, edges)


def _definition_of(submission: Mapping[str, Any], data: Path | None) -> Mapping[str, Any] | None:
    """Return the document of the definition that the submission names; only a server has it."""
    name = submission.get("definition")
    if not isinstance(name, str) or "subtasks" in submission:
        return None
    with connect(data) as server:
        return document_of(server.definition(name))


def _known_kinds(data: Path | None) -> Mapping[str, KindInfo] | None:
    """Return the kinds of the server; None where none is known or reachable."""
    try:
        with connect(data) as server:
            return {one.name: _kind(one.document) for one in server.kinds()}
    except (Unavailable, Invalid) as error:
        _note(error)
    return None


def _kind(document: Mapping[str, Any]) -> KindInfo:
    return KindInfo(
        name=document["name"],
        arguments_schema=document["argumentsSchema"],
        queue=document["queue"],
        timeout=document.get("timeout"),
        isolated=document["isolated"],
    )


def _note(error: TaskserverError) -> None:
    sys.stderr.write(f"note: kinds are not checked: {error.message}\n")


def _print_tree(document: Mapping[str, Any]) -> None:
    from rich.tree import Tree  # not above: see `output`

    fragments = document["fragments"]
    for fragment in fragments:
        after = ", ".join(str(one) for one in fragment["after"])
        tree = Tree(f"fragment {fragment['id']}" + (f" after {after}" if after else ""))
        _grow(tree, fragment["canvas"])
        console().print(tree)


def _grow(tree: "Tree", node: Mapping[str, Any]) -> None:
    from rich.markup import escape

    match dict(node):
        case {"unit": keys}:
            tree.add(escape(_shown_keys(keys)))
        case {"chain": steps}:
            _grow_all(tree.add("chain"), steps)
        case {"group": members}:
            _grow_all(tree.add("group"), members)
        case {"chord": {"header": header, "body": body}}:
            chord = tree.add("chord")
            _grow_all(chord.add("header"), header)
            _grow(chord.add("body"), body)


def _grow_all(tree: "Tree", nodes: list[Mapping[str, Any]]) -> None:
    for node in nodes:
        _grow(tree, node)


def _shown_keys(keys: list[str]) -> str:
    return " → ".join(_abridged(keys))


def _abridged(keys: list[str]) -> Iterator[str]:
    if len(keys) <= _SHOWN_KEYS:
        yield from keys
    else:
        yield from (*keys[:2], f"… {len(keys) - 3} more …", keys[-1])
