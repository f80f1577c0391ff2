"""The connections of callbacks: to addresses that were checked, under one deadline, and given up when asked.

A name is resolved once, here, and the connection goes to an address that was looked at: what the name says a moment later does
not matter. Every wait is short and looks whether the attempt is to stop; together they end at the deadline, however slowly the
other side, or the resolver, talks.
"""

import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from socket import SOCK_STREAM, getaddrinfo
from typing import Any

import httpcore

from schema.callback_hosts import CallbackHosts

_WAIT_SECONDS = 0.25  # between two looks whether to stop


class AddressRefused(Exception):
    """The name of a listed host leads to where callbacks must not go."""


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses only, under one deadline for everything."""

    def __init__(self, hosts: CallbackHosts, *, deadline: float, watch: Callable[[], None]) -> None:
        """Make what one exchange connects with.

        Args:
            hosts: The allow-list.
            deadline: When the exchange must have ended, on the monotonic clock.
            watch: Raises when the exchange is to be given up; called every so often.

        """
        self._hosts = hosts
        self._deadline = deadline
        self._watch = watch
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - there is one deadline
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of the host that may be called and answers."""
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in self._allowed_addresses(host, port):
            self._watch()
            try:
                stream = self._sockets.connect_tcp(
                    address, port, _remaining(self._deadline), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream, self._deadline, self._watch)
        raise failure or httpcore.ConnectError(f"{host} has no address")

    def _allowed_addresses(self, host: str, port: int) -> list[str]:
        addresses = self._addresses(host, port)
        allowed = [one for one in addresses if self._hosts.allows_address(host, ipaddress.ip_address(one), port)]
        if addresses and not allowed:
            raise AddressRefused(
                f"{host} leads to {', '.join(addresses)}, inside the network: if that is meant, an administrator can add the "
                "address to TASKSERVER_CALLBACK_HOSTS"
            )
        return allowed

    def _addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host. In a thread, because nothing else ends the resolver's own waiting."""
        answers: SimpleQueue[list[str] | OSError | UnicodeError] = SimpleQueue()
        threading.Thread(target=_resolve, args=(host, port, answers), daemon=True, name="resolver").start()
        while True:
            try:
                answer = answers.get(timeout=min(_WAIT_SECONDS, _remaining(self._deadline)))
            except Empty:
                self._watch()
                continue
            if isinstance(answer, list):
                return answer
            raise httpcore.ConnectError(f"{host} cannot be resolved: {answer}") from answer


def _resolve(host: str, port: int, answers: "SimpleQueue[list[str] | OSError | UnicodeError]") -> None:
    try:
        found = getaddrinfo(host, port, type=SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        answers.put(error)
    else:
        answers.put(list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)))


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose every wait ends at the deadline, or when the exchange is given up."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float, watch: Callable[[], None]) -> None:
        self._stream = stream
        self._deadline = deadline
        self._watch = watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        while True:
            self._watch()
            wait = min(_WAIT_SECONDS, _remaining(self._deadline))
            try:
                return self._stream.read(max_bytes, wait)
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        # Not by the stream's own write: that one allows its time anew for each piece that the other side takes.
        sock = self._stream.get_extra_info("socket")
        left = memoryview(buffer)
        while left:
            self._watch()
            sock.settimeout(min(_WAIT_SECONDS, _remaining(self._deadline)))
            try:
                left = left[sock.send(left) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _remaining(self._deadline))
        return _DeadlineStream(stream, self._deadline, self._watch)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise httpcore.ReadTimeout("the time for the whole exchange is up")
    return remaining
