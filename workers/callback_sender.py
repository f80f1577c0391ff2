"""The one sender of callbacks: signed POSTs to hosts of the allow-list, and to nowhere else.

Its connections go to checked addresses (`callback_connection`). No redirect is followed, no proxy of the environment is used,
the whole exchange has one deadline, and of the answer only the beginning is read.
"""

import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore

from schema.callback_hosts import CallbackHosts, Target
from schema.errors import InvalidArgument
from workers.callback_connection import AddressRefused, CheckedBackend
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


class NotDelivered(CallbackFailed):
    """There was no answer; the same callback may be answered later."""


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


def _nobody_stops() -> None:
    """Do nothing: the exchange goes on to its end or its deadline."""


class CallbackSender:
    """Sends callbacks for one installation."""

    def __init__(self, hosts: CallbackHosts, *, key: bytes) -> None:
        self._hosts = hosts
        self._key = key
        self._tls = ssl.create_default_context()

    def send(
        self,
        url: str,
        payload: Any,
        *,
        delivery: str,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = MAX_RESPONSE_BYTES,
        watch: Callable[[], None] = _nobody_stops,
    ) -> Answer:
        """POST the payload as JSON, and return the answer, whatever its status.

        Args:
            url: Of a host in the allow-list.
            payload: Any JSON value.
            delivery: The id by which the receiver recognises a repetition.
            timeout_seconds: For the whole exchange.
            headers: More headers; those that the sender writes itself, or that carry credentials, are refused.
            most_bytes: How much of the answer is read.
            watch: Raises when the exchange is to be given up; called every so often while it waits.

        Raises:
            InvalidArgument: The URL may not be called, or a header may not be sent.
            CallbackFailed: The host's name leads to where callbacks must not go.
            NotDelivered: There was no answer.

        """
        target = self._hosts.check_url(url)
        body = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        all_headers = _checked(headers or {}) + self._own_headers(body, delivery)
        backend = CheckedBackend(self._hosts, deadline=time.monotonic() + timeout_seconds, watch=watch)
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self._tls, network_backend=backend) as pool,
                pool.stream("POST", _url(target), headers=all_headers, content=body) as response,
            ):
                received, is_cut = _beginning(response.iter_stream(), most_bytes)
                return Answer(response.status, received, is_cut)
        except AddressRefused as error:
            raise CallbackFailed(f"POST {target.shown} is not sent: {error}") from error
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            reason = str(error) or type(error).__name__
            raise NotDelivered(f"POST {target.shown} failed: {reason}") from error

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


def _beginning(chunks: Iterable[bytes], most: int) -> tuple[bytes, bool]:
    received = bytearray()
    for chunk in chunks:
        received += chunk
        if len(received) > most:
            return bytes(received[:most]), True
    return bytes(received), False
