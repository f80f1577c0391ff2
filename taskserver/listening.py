"""Listening for NOTIFY on a connection of its own, in a thread that reconnects by itself.

Notifications are hints like any other message: who misses one finds the same by looking.
"""

import threading
from collections.abc import Callable, Mapping

import psycopg
from sqlalchemy.engine import make_url
from structlog import get_logger

_RECONNECT_SECONDS = 0.5
_CHECK_SECONDS = 1.0
_log = get_logger("taskserver.listening")


class Listener:
    """Calls a function for each notification of a channel, with its payload, in the listener's thread."""

    def __init__(self, database_url: str, channels: Mapping[str, Callable[[str], None]]) -> None:
        url = make_url(database_url).set(drivername="postgresql")
        self._conninfo = url.render_as_string(hide_password=False)
        self._channels = dict(channels)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Connect and listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop within about a second."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except psycopg.OperationalError as error:
                _log.warning("not listening", action="listen", error=str(error).strip())
                self._stopping.wait(_RECONNECT_SECONDS)

    def _listen(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True, application_name="taskserver-listener") as connection:
            for channel in self._channels:
                connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            for act in self._channels.values():
                act("")  # what came while nobody listened
            while not self._stopping.is_set():
                for notification in connection.notifies(timeout=_CHECK_SECONDS):
                    self._channels[notification.channel](notification.payload)
