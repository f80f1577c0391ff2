"""One HTTP connection, as uvicorn serves it, and its end when the client does not read.

What a client does not take waits in this process, whatever it asked for. Who takes nothing for a while is dropped: so
clients that are stuck, or mean it, cannot hold memory and connections for ever. When the server ends, a stream that its
client does not take is cut off at once; who followed it goes on at the next server.
"""

import asyncio
import socket

from structlog import get_logger
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_STALL_SECONDS = 30.0
_LAST_SECONDS = 0.5  # for streams, once the server is to end
# Of what is not yet on its way the kernel takes so much. By default it is megabytes, and whoever has taken less than a third
# of them seems to have taken nothing.
_UNSENT_BYTES = 128 * 1024
_log = get_logger("taskserver.api")


class HttpConnection(HttpToolsProtocol):
    """Drops a client that takes nothing for so long."""

    _stall: asyncio.TimerHandle | None = None
    _untaken = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; writing pauses as soon as the kernel takes no more."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connected = transport.get_extra_info("socket")
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    def pause_writing(self) -> None:
        """Wait for the client, but not for ever."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Go on: the client has taken everything."""
        super().resume_writing()
        self._watch_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._watch_no_more()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End with the server: other answers have their time, streams would take all of it."""
        super().shutdown()
        self.loop.call_later(_LAST_SECONDS, self._end_stream)

    def _watch(self) -> None:
        self._untaken = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(_STALL_SECONDS, self._judge)

    def _watch_no_more(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _judge(self) -> None:
        if self.transport.get_write_buffer_size() < self._untaken:
            self._watch()
            return
        _log.info("a client that takes nothing is dropped", action="client_dropped", client=self.client)
        self.transport.abort()

    def _end_stream(self) -> None:
        # Only streams are answered in chunks: the length of all else is known.
        if self.cycle is not None and self.cycle.chunked_encoding:
            self.transport.abort()
