"""The Celery application and its transport settings: the only Celery import in `schema`.

Why these settings: messages are hints and the claim in PostgreSQL is the lease, so messages are acknowledged early and
Redis' visibility timeout plays no part; nothing is fetched before a slot is free; results exist only where a chord
counts its header; delays live in PostgreSQL, so there are no ETA messages.
"""

from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.events import get_exchange
from kombu.messaging import Producer
from redis import Redis

from schema.settings import Settings
from schema.task_events import Event
from schema.wire import DEFAULT_QUEUE

_CHORD_RESULT_SECONDS = 24 * 3600


def make_celery(settings: Settings) -> Celery:
    """Return the application that both sides share; no connection is made yet."""
    url = settings.require_redis()
    app = Celery("taskserver", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        result_accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_default_queue=DEFAULT_QUEUE,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_track_started=False,
        result_expires=_CHORD_RESULT_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_pool_acquire_timeout=10,
        broker_transport_options={"socket_connect_timeout": 5, "socket_timeout": 30, "health_check_interval": 25},
        redis_socket_timeout=30,
        redis_socket_connect_timeout=5,
        redis_backend_health_check_interval=25,
        worker_pool_start_method="fork",
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        control_queue_expires=300,
        event_queue_expires=60,
        worker_send_task_events=False,  # of units; who runs subtasks tells of them
        task_send_sent_event=False,
    )
    return app


def publish_events(channel: Any, events: Sequence[Event], *, hostname: str) -> None:
    """Tell whoever listens to Celery's events, in one message; what nobody hears is gone, and piles up nowhere.

    Args:
        channel: An open channel to the broker.
        events: All of the group `task`.
        hostname: The node name of who tells.

    Raises:
        Exception: Whatever the transport raises while the broker is away.

    """
    exchange = get_exchange(channel.connection.client)
    producer = Producer(channel, exchange=exchange, serializer="json", auto_declare=False)  # type: ignore[no-untyped-call]
    producer.publish(  # type: ignore[no-untyped-call]
        list(events),
        routing_key="task.multi",
        declare=[exchange],
        headers={"hostname": hostname},
        delivery_mode="transient",
    )


def make_redis(settings: Settings) -> Redis:
    """Return a plain Redis client for the broker's server (queue lengths)."""
    url = settings.require_redis()
    if url.startswith("redis+socket://"):
        url = "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")
    return Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
