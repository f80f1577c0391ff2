"""A private Redis, on a unix socket only, and the part that a supervisor keeps alive.

It keeps nothing on disk: a message is only a hint, and all state is in PostgreSQL, so what a killed Redis held is published
again. It never evicts: a full Redis must refuse a message aloud rather than drop one that it has accepted.
"""

from collections.abc import Iterable
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskserver.embedded.places import Places
from taskserver.embedded.programs import find_redis, redis_places
from taskserver.supervision.part import Backoff, Part

NAME = "redis"
SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "logfile": "",  # standard output, which the supervisor keeps
}


class EmbeddedRedis:
    """The Redis of one directory."""

    def __init__(self, places: Places, *, search: Iterable[Path] | None = None) -> None:
        self._socket = places.sockets / "redis.sock"
        self._log_file = places.logs / "redis.log"
        self._directory = places.run
        self._program = find_redis(redis_places() if search is None else search)

    @property
    def url(self) -> str:
        """The address for Celery and kombu, for the broker and for results."""
        return f"redis+socket://{self._socket}"

    @property
    def client_url(self) -> str:
        """The same address as redis-py spells it."""
        return f"unix://{self._socket}"

    def part(self) -> Part:
        """Describe the server to a supervisor."""
        settings = {**SETTINGS, "unixsocket": str(self._socket), "dir": str(self._directory)}
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Part(
            name=NAME,
            argv=(str(self._program), *options),
            log_file=self._log_file,
            is_ready=self._is_ready,
            adoptable=True,
            backoff=Backoff(first_seconds=0.1, cap_seconds=5.0),
        )

    def _is_ready(self) -> bool:
        # Without its own retries, which would hold up the supervisor for seconds.
        with redis.Redis(unix_socket_path=str(self._socket), socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            try:
                client.ping()
            except (redis.ConnectionError, redis.TimeoutError):
                return False
        return True
