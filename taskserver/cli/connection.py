"""Which server the client commands talk to: the one of the settings, else the `dev` of a directory."""

from pathlib import Path
from typing import Annotated

import typer

from schema.errors import InvalidArgument
from schema.settings import Settings
from taskserver.client import ServerUnreachable, TaskServer
from taskserver.dev_directory import DevDirectory

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="The directory of a running `taskserver dev`; default .taskserver.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def connect(data: Path | None) -> TaskServer:
    """Return the client of TASKSERVER_URL and TASKSERVER_TOKEN, else of the `dev` whose directory is given or here.

    Raises:
        InvalidArgument: A URL is set without a token.
        ServerUnreachable: Neither is set and no dev runs.

    """
    settings = Settings.load()
    directory = DevDirectory(data or settings.data)
    url = directory.url if data is not None else settings.url or directory.url
    if url is None:
        raise ServerUnreachable(
            f"no server is known: set TASKSERVER_URL and TASKSERVER_TOKEN, or run `taskserver dev` (none runs in {directory.root})"
        )
    token = directory.token if data is not None or settings.token is None else settings.token.get_secret_value()
    if token is None or (data is None and settings.url is not None and settings.token is None):
        raise InvalidArgument(f"TASKSERVER_TOKEN is not set: set it to the token of a principal of {url}")
    return TaskServer(url, token)
