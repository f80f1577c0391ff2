"""Which tasks are meant: the options that `list` and `retry --all-failed` share."""

from typing import Annotated

import typer

from schema.states import TaskState

NameOption = Annotated[str | None, typer.Option("--name", help="Only tasks with this in their name.")]
CreatorOption = Annotated[str | None, typer.Option("--creator", help="Only tasks that this principal submitted.")]
TypeOption = Annotated[
    str | None, typer.Option("--type", help="Only MANUAL, SYS_ONCE, SCHEDULED or SYS_SCHEDULED tasks.")
]
TaskTypeOption = Annotated[
    str | None, typer.Option("--task-type", help="Only tasks of this definition, or `inline` for those of none.")
]
InstanceOption = Annotated[int | None, typer.Option("--instance-id", help="Only tasks about this instance.")]
AfterOption = Annotated[
    str | None,
    typer.Option("--created-after", metavar="TIME", help="Created then or later, such as 2026-12-01T00:00:00Z."),
]
BeforeOption = Annotated[
    str | None,
    typer.Option("--created-before", metavar="TIME", help="Created before then."),
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
