"""The Redis transport, but that messages are taken for good, and one that nobody can read is dropped and told of.

A message is a hint and the claim in PostgreSQL is the lease, so there is nothing to acknowledge: a message that is lost with
its worker is found and published again. That saves kombu's two notes in Redis for each message, and the worker no longer
ends when Redis is killed while it holds one.

Unchanged, kombu lets such a message end the worker and all that it runs; one that had been taken already is put back on the
way out, so that it ends the next worker too. What was lost with it, if it was ours, is found and published again.
"""

import json
from typing import Any

from kombu.transport import redis
from kombu.utils.json import dumps
from structlog import get_logger

_SHOWN = 200
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)  # what reading data of another shape raises
_log = get_logger("taskserver.worker")


class Channel(redis.Channel):
    """Takes messages without noting them as unacknowledged, and goes on after an item that is no JSON.

    `_brpop_read` has taken such an item from the queue by then. `heard` tells how many heard what was broadcast last.
    """

    heard = 0

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **options: Any) -> Any:  # noqa: ARG002
        """Consume as if nobody would ever acknowledge."""
        return super().basic_consume(queue, True, callback, consumer_tag, **options)  # type: ignore[no-untyped-call]

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Do nothing: no message is noted as taken."""

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **options: Any) -> None:  # noqa: ARG002
        """Broadcast a message, and note how many heard it: who has much to tell can spare himself an empty room."""
        with self.conn_or_acquire() as client:
            topics = self._get_publish_topics(exchange, routing_key)  # type: ignore[no-untyped-call]
            payload = dumps(message)  # type: ignore[no-untyped-call]
            self.heard = sum(client.publish(topic, payload) for topic in topics)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            _log.error("message dropped, it is no JSON", action="receive", error=str(error))
            return True


class Transport(redis.Transport):
    """Goes on after a message that Celery cannot make a request of."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        except _UNREADABLE as error:
            _log.error(
                "message dropped, it cannot be read",
                action="receive",
                queue=queue,
                error=repr(error),
                message=repr(message)[:_SHOWN],
            )
