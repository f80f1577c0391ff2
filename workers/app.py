"""The worker's composition root: `celery -A workers.app worker` starts here, and so does `taskserver worker`."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from billiard import current_process
from celery.signals import (
    celeryd_after_setup,
    celeryd_init,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)
from kombu.transport import TRANSPORT_ALIASES
from structlog import get_logger

from schema.celeryapp import make_celery
from schema.errors import Invalid
from schema.logs import configure_logging
from schema.refusal import REFUSED, refusal
from workers.environment import worker_settings
from workers.remote_control import restrict_remote_control
from workers.runtime import Runtime
from workers.tasks import register_tasks

_REAP_SECONDS = 0.2
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "workers.transport:Transport"))
_settings = worker_settings()  # first: what is imported from here on finds no secret in the environment
_runtime = Runtime(_settings)
app = make_celery(_settings)
register_tasks(app, _runtime)
restrict_remote_control(_runtime)
_command_line: dict[str, Any] = {}
_log = get_logger("taskserver.worker")


@contextmanager
def _needed() -> Iterator[None]:
    """End the process when the block fails: Celery only logs it, and would take messages that nobody here can run."""
    try:
        yield
    except Invalid as error:  # what somebody wrote: starting again changes nothing
        if error.__cause__ is not None and not isinstance(error.__cause__, Invalid):
            traceback.print_exception(error.__cause__)
        sys.stderr.write(refusal(error))
        raise SystemExit(REFUSED) from None
    except Exception:  # noqa: BLE001 - whatever it is, this process is of no use
        _log.exception("worker cannot start", action="start")
        raise SystemExit(1) from None


@setup_logging.connect(weak=False)
def _setup_logging(**_: Any) -> None:
    configure_logging()


@celeryd_init.connect(weak=False)
def _note_command_line(options: dict[str, Any], **_: Any) -> None:
    _command_line.update(options)


@celeryd_after_setup.connect(weak=False)
def _prepare(sender: str, instance: Any, **_: Any) -> None:
    with _needed():
        wanted = _runtime.load_handlers()
        queues = instance.app.amqp.queues
        if not _command_line.get("queues"):  # take those that the kinds here use
            for name in sorted(wanted - queues.keys() - _excluded()):
                queues.select_add(queues.new_missing(name))  # just as -Q would
        _runtime.register(name=sender, concurrency=instance.concurrency, queues=sorted(queues.consume_from))


def _excluded() -> frozenset[str]:
    given = _command_line.get("exclude_queues") or ()
    return frozenset(given.split(",") if isinstance(given, str) else given)


@worker_process_init.connect(weak=False)
def _enter_process(**_: Any) -> None:
    with _needed():
        _runtime.enter_process(current_process().index, app)


@worker_process_shutdown.connect(weak=False)
def _leave_process(exitcode: int, **_: Any) -> None:
    _runtime.leave_process()
    # All that it ran is recorded. Billiard would announce the end and sleep a second, or until the main process reads it,
    # which does not when it is ending itself; it sees the end anyway.
    os._exit(exitcode)


@worker_ready.connect(weak=False)
def _start_heart(sender: Any, **_: Any) -> None:
    _runtime.start_heart()
    _runtime.watch_audience(app)
    # A dying process closes its sentinel a moment before it can be reaped: Celery then finds nobody dead, and would look
    # again only after five seconds.
    sender.hub.call_repeatedly(_REAP_SECONDS, sender.pool.maintain_pool)


@worker_shutdown.connect(weak=False)
def _stop_heart(**_: Any) -> None:
    _runtime.stop_heart()
