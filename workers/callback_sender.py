"""The one sender of callbacks: signed POSTs to hosts of the allow-list, and to nowhere else.

The name is resolved once, by the connection itself, and the connection goes to an address that was checked: what the name
says a moment later does not matter. No redirect is followed, no proxy of the environment is used, the whole exchange has one
deadline, and of the answer only the beginning is read.
"""

import hashlib
import hmac
import ipaddress
import json
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from socket import SOCK_STREAM, gaierror, getaddrinfo
from typing import Any

import httpcore

from schema.callback_hosts import CallbackHosts, Target
from schema.errors import InvalidArgument
from workers.environment import worker_settings

MAX_RESPONSE_BYTES = 64 * 1024

_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"([!-~]([ -~\t]*[!-~])?)?")
_OWN_PREFIX = "x-taskserver-"


class CallbackFailed(Exception):
    """The callback was not delivered, or the receiver did not accept it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said; `is_cut` when it said more than is read."""

    status: int
    body: bytes
    is_cut: bool


def sign(key: bytes, *, timestamp: str, delivery: str, body: bytes) -> str:
    """Return the signature: `sha256=` and the HMAC of `timestamp.delivery.body` in hex."""
    message = b".".join((timestamp.encode(), delivery.encode(), body))
    return "sha256=" + hmac.digest(key, message, hashlib.sha256).hex()


class CallbackSender:
    """Sends callbacks for one installation."""

    def __init__(self, hosts: CallbackHosts, *, key: bytes) -> None:
        self._hosts = hosts
        self._key = key
        self._tls = ssl.create_default_context()

    def send(
        self, url: str, payload: Any, *, delivery: str, timeout_seconds: float, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """POST the payload as JSON, and return the answer, whatever its status.

        Args:
            url: Of a host in the allow-list.
            payload: Any JSON value.
            delivery: The id by which the receiver recognises a repetition.
            timeout_seconds: For the whole exchange.
            headers: More headers; those that the sender writes itself, or that carry credentials, are refused.

        Raises:
            InvalidArgument: The URL may not be called, or a header may not be sent.
            CallbackFailed: There was no answer.

        """
        target = self._hosts.check_url(url)
        body = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        all_headers = _checked(headers or {}) + self._own_headers(body, delivery)
        backend = _CheckedBackend(self._hosts, deadline=time.monotonic() + timeout_seconds)
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self._tls, network_backend=backend) as pool,
                pool.stream("POST", _url(target), headers=all_headers, content=body) as response,
            ):
                received, is_cut = _beginning(response.iter_stream())
                return Answer(response.status, received, is_cut)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            reason = str(error) or type(error).__name__
            raise CallbackFailed(f"POST {target.shown} failed: {reason}") from error

    def _own_headers(self, body: bytes, delivery: str) -> list[tuple[str, str]]:
        timestamp = str(int(time.time()))
        return [
            ("Content-Type", "application/json"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
            ("X-Taskserver-Timestamp", timestamp),
            ("X-Taskserver-Delivery", delivery),
            ("X-Taskserver-Signature", sign(self._key, timestamp=timestamp, delivery=delivery, body=body)),
        ]


@cache
def sender_of_this_process() -> CallbackSender:
    """Return the sender that the settings describe; made at first use."""
    settings = worker_settings()
    return CallbackSender(CallbackHosts.parse(settings.callback_hosts), key=settings.require_callback_key().encode())


def _url(target: Target) -> httpcore.URL:
    path = f"{target.path}?{target.query}" if target.query else target.path
    return httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=path)


def _checked(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    for name, value in headers.items():
        if name.lower() in _OWN_HEADERS or name.lower().startswith(_OWN_PREFIX):
            raise InvalidArgument(f"header {name!r} is not sent with callbacks: leave it out")
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidArgument(f"header {name!r} is not one line of printable ASCII: correct it")
    return list(headers.items())


def _beginning(chunks: Iterable[bytes]) -> tuple[bytes, bool]:
    received = bytearray()
    for chunk in chunks:
        received += chunk
        if len(received) > MAX_RESPONSE_BYTES:
            return bytes(received[:MAX_RESPONSE_BYTES]), True
    return bytes(received), False


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses only, under one deadline for everything."""

    def __init__(self, hosts: CallbackHosts, *, deadline: float) -> None:
        self._hosts = hosts
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - there is one deadline
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in self._addresses(host, port):
            try:
                stream = self._sockets.connect_tcp(
                    address, port, _remaining(self._deadline), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream, self._deadline)
        raise failure or httpcore.ConnectError(f"{host} has no address")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = getaddrinfo(host, port, type=SOCK_STREAM)
        except (gaierror, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
        allowed = [one for one in addresses if self._hosts.allows_address(host, ipaddress.ip_address(one))]
        if addresses and not allowed:
            raise httpcore.ConnectError(
                f"{host} leads to {', '.join(addresses)}, inside the network: if that is meant, an administrator can add the "
                "address to TASKSERVER_CALLBACK_HOSTS"
            )
        return allowed


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose every wait ends at the deadline, however slowly the other side talks."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _remaining(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _remaining(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _remaining(self._deadline))
        return _DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise httpcore.ReadTimeout("the time for the whole exchange is up")
    return remaining
