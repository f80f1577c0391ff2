"""Listening for NOTIFY on a connection of its own, in a thread that reconnects by itself.

Notifications are hints like any other message: who misses one finds the same by looking.
"""

import selectors
import socket
import threading
from collections.abc import Callable, Mapping

import psycopg
from sqlalchemy.engine import make_url
from structlog import get_logger

from schema.database import KEEPALIVE

_RECONNECT_SECONDS = 0.5
_QUIET_SECONDS = 10.0
_log = get_logger("taskserver.listening")


class Listener:
    """Calls a function for each notification of a channel, with its payload, in the listener's thread."""

    def __init__(self, database_url: str, channels: Mapping[str, Callable[[str], None]]) -> None:
        url = make_url(database_url).set(drivername="postgresql")
        url = url.update_query_dict({name: str(value) for name, value in KEEPALIVE.items()})
        self._conninfo = url.render_as_string(hide_password=False)
        self._channels = dict(channels)
        self._stopping = threading.Event()
        self._stop_told, self._stop_heard = socket.socketpair()  # wakes the thread where an event cannot
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Connect and listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop at once, or as soon as a connection that is being made has been."""
        self._stopping.set()
        self._stop_told.close()
        self._thread.join()
        self._stop_heard.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except psycopg.OperationalError as error:
                _log.warning("not listening", action="listen", error=str(error).strip())
                self._stopping.wait(_RECONNECT_SECONDS)

    def _listen(self) -> None:
        with (
            psycopg.connect(self._conninfo, autocommit=True, application_name="taskserver-listener") as connection,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(connection, selectors.EVENT_READ)
            ready.register(self._stop_heard, selectors.EVENT_READ)
            for channel in self._channels:
                connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            for act in self._channels.values():
                act("")  # what came while nobody listened
            while not self._stopping.is_set():
                if not ready.select(_QUIET_SECONDS):
                    connection.execute("SELECT 1")  # or a connection that is half gone would stay deaf for ever
                for notification in connection.notifies(timeout=0):
                    self._channels[notification.channel](notification.payload)
