"""The commands that run something: dev, server, worker, flower, migrate, check, demo.

What they run is imported inside them: it takes a second that the client commands, which cron calls, need not spend.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from schema.logs import configure_logging
from schema.settings import Settings
from taskserver.cli.connection import JsonOption
from taskserver.cli.exits import EPILOG, Exit
from taskserver.cli.output import console, print_json

HostOption = Annotated[str, typer.Option(help="The address to listen on.")]
DirectoryOption = Annotated[
    Path | None, typer.Option("--data", help="Where all state lives; default .taskserver.", show_default=False)
]
HandlersOption = Annotated[
    list[str] | None,
    typer.Option(metavar="MODULE", help="A module with handlers, importable from here; repeatable, or a comma list."),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option(help="How many subtasks run at once; default one per CPU.", min=1, show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (dev, server, worker, flower, migrate, check, demo):
        app.command(epilog=EPILOG)(command)


def dev(
    *,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free port.", min=0, max=65535)] = 8080,
    data: DirectoryOption = None,
    handlers: HandlersOption = None,
    concurrency: ConcurrencyOption = None,
    flower_port: Annotated[
        int | None,
        typer.Option(
            help="Flower's port, 0 takes any free one; default 5555, or any free one where that is taken.",
            min=0,
            max=65535,
            show_default=False,
        ),
    ] = None,
    no_flower: Annotated[bool, typer.Option("--no-flower", help="Do not start Flower.")] = False,
) -> None:
    """Run the whole stack in the foreground: PostgreSQL, Redis, server, worker and Flower, until Ctrl-C.

    Prints one line `taskserver ready: http://HOST:PORT` when everything answers. With TASKSERVER_DATABASE_URL and
    TASKSERVER_REDIS_URL set it uses those servers. The administrator's token is in DIR/admin-token, logs are in DIR/log.
    Flower's address goes to standard error; its login is admin with that token.
    """
    from taskserver.development import Development, DevelopmentOptions
    from taskserver.supervision.supervisor import interrupted_by_signals

    configure_logging()
    settings = Settings.load()
    options = DevelopmentOptions(
        directory=data or settings.data,
        host=host,
        port=port,
        handlers=_words(handlers),
        concurrency=concurrency or os.cpu_count() or 1,
        flower=not no_flower,
        flower_port=flower_port,
    )
    with interrupted_by_signals(), Development(settings, options) as running:
        if running.flower_url is not None:
            token_file = options.directory / "admin-token"
            sys.stderr.write(f"flower: {running.flower_url} (login admin, password in {token_file})\n")
        sys.stdout.write(f"taskserver ready: {running.url}\n")
        sys.stdout.flush()
        running.wait()


def server(
    *,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free port.", min=0, max=65535)] = 8080,
    port_file: Annotated[
        Path | None, typer.Option(help="Told the port; with --port 0 the next start takes the same one.", hidden=True)
    ] = None,
) -> None:
    """Run a server process: the API and a dispatcher. Several may run at once.

    Needs TASKSERVER_DATABASE_URL, TASKSERVER_REDIS_URL and TASKSERVER_SECRET_KEY, and a database that is migrated.
    """
    from taskserver.server import serve

    configure_logging()
    serve(Settings.load(), host=host, port=port, port_file=port_file)


def worker(
    *,
    queues: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these queues; without it those of all its kinds.")
    ] = None,
    concurrency: ConcurrencyOption = None,
    handlers: HandlersOption = None,
) -> None:
    """Run a worker, and start it again when it ends by itself. SIGTERM lets it finish what it began; a second does not."""
    from taskserver.worker import WorkerKeeper, worker_command, worker_environment

    configure_logging()
    settings = Settings.load()
    settings.require_database()
    settings.require_redis()
    command = worker_command(
        name=f"taskserver-{os.getpid()}",
        concurrency=concurrency or os.cpu_count() or 1,
        queues=_words([queues] if queues else None),
    )
    modules = ",".join(dict.fromkeys((*settings.handlers, *_words(handlers))))
    environment = worker_environment(settings, os.environ)
    if not WorkerKeeper(command, {**environment, "TASKSERVER_HANDLERS": modules}).run():
        raise typer.Exit(Exit.USAGE)  # the worker itself has said why


def flower(
    *,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free port.", min=0, max=65535)] = 5555,
) -> None:
    """Run Flower, which shows workers and every subtask that they run, behind a login.

    Needs TASKSERVER_REDIS_URL and TASKSERVER_FLOWER_AUTH (name:password). The path of TASKSERVER_FLOWER_URL, if there is one,
    is the prefix of its addresses.
    """
    from taskserver.flower import serve_flower

    configure_logging()
    serve_flower(Settings.load(), host=host, port=port)


def migrate() -> None:
    """Bring the database to the schema of this version. Forward only; safe to run at any time."""
    from schema.database import make_engine
    from schema.migration import migrate as migrate_database

    engine = make_engine(Settings.load().require_database(), name="taskserver-migrate", pool_size=1)
    try:
        revision = migrate_database(engine)
    finally:
        engine.dispose()
    sys.stdout.write(f"the database is at revision {revision}\n")


def check(
    *,
    data: DirectoryOption = None,
    of_worker: Annotated[
        bool, typer.Option("--worker", help="Check what a worker needs: it has no secret key.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove that settings, database, migrations, broker, workers and kinds are as they must be; say what to do if not.

    Without settings it checks the `taskserver dev` whose directory is --data or .taskserver here.
    """
    from taskserver.checks import run_checks

    report = run_checks(_checked_settings(data), of_worker=of_worker)
    if as_json:
        print_json(report.document())
    else:
        for one in report.findings:
            mark, style = ("ok", "green") if one.ok else ("FAILED", "bold red")
            console().print(f"[{style}]{mark:>6}[/] {one.name}:", end=" ")
            console().print(one.detail + (f" at {one.address}" if one.address else ""), markup=False)
            if one.cure is not None:
                console().print(f"       → {one.cure}", markup=False)
    raise typer.Exit(Exit.OK if report.ok else Exit.FAILED)


def demo(
    *,
    data: DirectoryOption = None,
    path: Annotated[
        list[Path] | None,
        typer.Option(help="Look for distributions here too; repeatable.", exists=True, file_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the demonstration: take stock of the Python distributions on this machine, and tell what changed."""
    import logging

    from taskserver.demo import print_outcome, run_demo

    configure_logging(logging.WARNING)
    settings = Settings.load()
    outcome = run_demo(settings, data or settings.data, extra_paths=path or [])
    if outcome is None:
        raise typer.Exit(Exit.FAILED)
    if as_json:
        print_json(outcome.document)
    else:
        print_outcome(outcome)
    raise typer.Exit(Exit.OK if outcome.is_successful else Exit.FAILED)


def _words(values: list[str] | None) -> tuple[str, ...]:
    return tuple(word.strip() for value in values or () for word in value.split(",") if word.strip())


def _checked_settings(data: Path | None) -> Settings:
    from taskserver.dev_directory import settings_of_dev

    return settings_of_dev(Settings.load(), data)
