"""Which tasks are meant: the options that `list` and `retry --all-failed` share."""

import re
from typing import Annotated

import typer

from schema.states import TaskState

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)

NameOption = Annotated[str | None, typer.Option("--name", help="Only tasks with this in their name.")]
CreatorOption = Annotated[str | None, typer.Option("--creator", help="Only tasks that this principal submitted.")]
TypeOption = Annotated[
    str | None, typer.Option("--type", help="Only MANUAL, SYS_ONCE, SCHEDULED or SYS_SCHEDULED tasks.")
]
TaskTypeOption = Annotated[
    str | None, typer.Option("--task-type", help="Only tasks of this definition, or `inline` for those of none.")
]
InstanceOption = Annotated[int | None, typer.Option("--instance-id", help="Only tasks about this instance.")]


def _moment(text: str) -> str:
    """Return a plain date as its first moment in UTC, in which the server tells times; anything else as it is."""
    return f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text


AfterOption = Annotated[
    str | None,
    typer.Option(
        "--created-after",
        metavar="TIME",
        parser=_moment,
        help="Created then or later: 2026-12-01T08:00:00+08:00, or 2026-12-01, which is 00:00 UTC of that day.",
    ),
]
BeforeOption = Annotated[
    str | None,
    typer.Option("--created-before", metavar="TIME", parser=_moment, help="Created before then."),
]
StateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        help=f"Only these states: {', '.join(TaskState)}; repeatable, or a comma list.",
        autocompletion=lambda: list(TaskState),
    ),
]
StatusOption = Annotated[
    list[str] | None,
    typer.Option("--status", help="Only RUNNING, SUCCESSFUL or FAILED: coarser than --state, as OCP tells it."),
]
