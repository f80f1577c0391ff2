"""The command line: `taskserver …`, also `python -m taskserver …`."""

import gc
import sys
from typing import Annotated

try:
    import typer

    from taskserver.cli import doctor, planning, processes, registry, retrying, submitting, tasks, verbs
    from taskserver.cli.definitions import definitions
    from taskserver.cli.endings import Commands, run
    from taskserver.cli.exits import EPILOG, Exit
    from taskserver.cli.principals import principals
except KeyboardInterrupt:  # they take a moment, and a Ctrl-C in it deserves no traceback
    sys.exit(130)

app = typer.Typer(
    name="taskserver",
    cls=Commands,
    help="A durable task server on Celery, Redis and PostgreSQL.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for group in (processes, submitting, tasks, verbs, retrying, planning, doctor, registry):
    group.register(app)
app.add_typer(definitions, name="definitions")
app.add_typer(principals, name="principals")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # not above: it is slow to import, and no command needs it

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
        sys.exit(run(app))
    except KeyboardInterrupt:  # before or after the command itself, whose own interruption is told in words
        sys.exit(Exit.INTERRUPTED)
    finally:
        gc.freeze()  # or Python takes up to a second to sort all that was imported before the system takes it back


if __name__ == "__main__":
    main()
