"""The Redis transport, but that a message nobody can read is dropped and told of.

Unchanged, kombu lets such a message end the worker and all that it runs; one that had been taken already is put back on the
way out, so that it ends the next worker too. What was lost with it, if it was ours, is found and published again.
"""

import json
from typing import Any

from kombu.transport import redis
from structlog import get_logger

_SHOWN = 200
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)  # what reading data of another shape raises
_log = get_logger("taskserver.worker")


class Channel(redis.Channel):
    """Goes on after an item that is no JSON; `_brpop_read` has taken it from the queue by then."""

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
            self._forget(message)

    def _forget(self, message: Any) -> None:
        """Acknowledge it where it was noted as taken, or it would be put back when the worker ends."""
        match message:
            case {"properties": {"delivery_tag": str(tag)}}:
                for channel in self.channels:
                    if tag in channel.qos._delivered:  # noqa: SLF001 - kombu has no other way to ask
                        channel.qos.ack(tag)
