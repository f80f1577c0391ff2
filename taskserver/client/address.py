"""Where the server is and who asks, checked before the first call; and how `httpx` is told so."""

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from schema.errors import InvalidArgument
from taskserver.client.calls import Call
from taskserver.client.errors import ServerUnreachable

_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """A server, a principal's token, and how many seconds the server may be silent."""

    url: str
    token: str = field(repr=False)
    timeout: float

    @classmethod
    def of(cls, url: str, token: str, timeout: float) -> Self:
        """Check what a user gave.

        Raises:
            InvalidArgument: The URL or the token is none.

        """
        _check_url(url)
        if not token:
            raise InvalidArgument("the token is empty: give that of a principal")
        if not token.isascii() or not token.isprintable() or token != token.strip():
            raise InvalidArgument("the token holds characters that no token has: is there a blank or a line end in it?")
        return cls(url.rstrip("/"), token, timeout)

    @property
    def options(self) -> dict[str, Any]:
        """What both sorts of `httpx` clients are made with."""
        url = httpx.URL(self.url)
        options = {
            "base_url": url,
            "headers": {"Authorization": f"Bearer {self.token}"},
            "timeout": self._limits(None),
        }
        if _is_local(url.host):
            options["trust_env"] = False  # a proxy for the rest of the world cannot reach this machine's own addresses
            if url.scheme == "http":
                # Trusts nobody: there is no TLS here, and loading whom to trust would take longer than a call.
                options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return options

    def request(self, call: Call) -> dict[str, Any]:
        """Return the call as `httpx` takes it."""
        headers = dict(call.headers)
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        return {
            "method": call.method,
            "url": call.path,
            "params": dict(call.query),
            "headers": headers,
            "content": call.body,
            "timeout": self._limits(call.answer_seconds),
        }

    def _limits(self, answer_seconds: float | None) -> httpx.Timeout:
        return httpx.Timeout(self.timeout if answer_seconds is None else answer_seconds, connect=_CONNECT_SECONDS)


def known_address(data: Path | None = None) -> tuple[str, str]:
    """Return the URL and token of TASKSERVER_URL and TASKSERVER_TOKEN, else of the `dev` whose directory is given or here.

    Args:
        data: The directory of a `dev`; it comes before the settings.

    Raises:
        InvalidArgument: A URL is set without a token.
        ServerUnreachable: No URL is set and no `dev` runs.

    """
    from schema.settings import Settings  # not above: only who asks for settings should wait for them to be imported
    from taskserver.dev_directory import DevDirectory  # the same

    settings = Settings.load()
    directory = DevDirectory(data or settings.data)
    url = directory.url if data is not None else settings.url or directory.url
    if url is None:
        raise ServerUnreachable(
            f"no server is known: set TASKSERVER_URL and TASKSERVER_TOKEN, or run `taskserver dev` (none runs in {directory.root})"
        )
    token = directory.token if data is not None or settings.token is None else settings.token.get_secret_value()
    if token is None or (data is None and settings.url is not None and settings.token is None):
        raise InvalidArgument(f"TASKSERVER_TOKEN is not set: set it to the token of a principal of {url}")
    return url, token


def _check_url(url: str) -> None:
    if "@" in url:  # whether it can be read or not: a password must not get into a message
        raise InvalidArgument(
            "the address of the server holds a name or a password: give http://HOST:PORT, and the token by itself",
            target="url",
        )
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.query or parsed.fragment:
        raise InvalidArgument(f"{url!r} is not the address of a server: give http://HOST:PORT", target="url")


def _is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified
