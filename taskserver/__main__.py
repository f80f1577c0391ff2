"""The command line: `taskserver …`, also `python -m taskserver …`."""

import gc
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from schema.errors import TaskserverError
from taskserver.cli import planning, processes, tasks
from taskserver.cli.exits import EPILOG, exit_code_of, report
from taskserver.cli.principals import principals

app = typer.Typer(
    name="taskserver",
    help="A durable task server on Celery, Redis and PostgreSQL.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
processes.register(app)
tasks.register(app)
planning.register(app)
app.add_typer(principals, name="principals")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"taskserver {version('taskserver')}\n")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda value: _print_version(wanted=value), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Show the options that stand before a command."""


def main() -> None:
    """Run the command line; every error of ours ends as a message on standard error and an exit code."""
    try:
        app(prog_name="taskserver")
    except TaskserverError as error:
        report(error)
        sys.exit(exit_code_of(error))
    finally:
        gc.freeze()  # or Python takes up to a second to sort all that was imported before the system takes it back


if __name__ == "__main__":
    main()
