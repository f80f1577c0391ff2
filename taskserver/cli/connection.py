"""Which server the client commands talk to: the one of the settings, else the `dev` of a directory."""

from pathlib import Path
from typing import Annotated

import typer

from taskserver.client import TaskServer
from taskserver.client.address import known_address

PATIENCE_SECONDS = 2.0  # who asks at a terminal would rather be told
WAITING_PATIENCE_SECONDS = 60.0  # a server that is started again while somebody waits

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="The directory of a running `taskserver dev`; default .taskserver.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def connect(data: Path | None, *, patience_seconds: float = PATIENCE_SECONDS) -> TaskServer:
    """Return the client of TASKSERVER_URL and TASKSERVER_TOKEN, else of the `dev` whose directory is given or here.

    Args:
        data: The directory of a `dev`.
        patience_seconds: How long to try while no server answers; while waiting for a task a minute at least.

    Raises:
        InvalidArgument: A URL is set without a token.
        ServerUnreachable: Neither is set and no dev runs.

    """
    url, token = known_address(data)
    waiting = max(patience_seconds, WAITING_PATIENCE_SECONDS)
    return TaskServer(url, token, patience_seconds=patience_seconds, waiting_patience_seconds=waiting)
