"""The worker's composition root: `celery -A workers.app worker` starts here, and so does `taskserver worker`."""

from typing import Any

from billiard import current_process
from celery.signals import celeryd_after_setup, setup_logging, worker_process_init, worker_ready, worker_shutdown
from kombu.transport import TRANSPORT_ALIASES

from schema.celeryapp import make_celery
from schema.logs import configure_logging
from schema.settings import Settings
from workers.runtime import Runtime
from workers.tasks import register_tasks

_REAP_SECONDS = 0.2
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "workers.transport:Transport"))
_settings = Settings.load()
_runtime = Runtime(_settings)
app = make_celery(_settings)
register_tasks(app, _runtime)


@setup_logging.connect(weak=False)
def _setup_logging(**_: Any) -> None:
    configure_logging()


@celeryd_after_setup.connect(weak=False)
def _prepare(sender: str, instance: Any, **_: Any) -> None:
    queues = list(instance.app.amqp.queues.consume_from)
    _runtime.prepare(name=sender, concurrency=instance.concurrency, queues=queues)


@worker_process_init.connect(weak=False)
def _enter_process(**_: Any) -> None:
    _runtime.enter_process(current_process().index)


@worker_ready.connect(weak=False)
def _start_heart(sender: Any, **_: Any) -> None:
    _runtime.start_heart()
    # A dying process closes its sentinel a moment before it can be reaped: Celery then finds nobody dead, and would look
    # again only after five seconds.
    sender.hub.call_repeatedly(_REAP_SECONDS, sender.pool.maintain_pool)


@worker_shutdown.connect(weak=False)
def _stop_heart(**_: Any) -> None:
    _runtime.stop_heart()
