"""The allow-list of hosts that callbacks may go to: checked when a task is submitted, and again before each delivery.

Pure text and addresses; nothing is resolved here. A URL's host must stand in the list, word for word. What its name leads to
must be a public address, unless the list names that very address and port (or `localhost`): a name that somebody else can point at the
inside of the network opens nothing.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from schema.errors import InvalidArgument

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PLAIN = re.compile(r"[!-~]+")
_SETTING = "TASKSERVER_CALLBACK_HOSTS"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a callback goes, taken apart once: nobody reads the URL a second time, and perhaps differently."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @property
    def shown(self) -> str:
        """The URL without what may be secret."""
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class CallbackHosts:
    """The hosts of the list, each with the ports it may be called at; None stands for every port."""

    ports: dict[str, frozenset[int] | None]

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Self:
        """Read `host[:port]` entries; an IPv6 address stands in brackets.

        Raises:
            InvalidArgument: Names the entry that is wrong.

        """
        ports: dict[str, frozenset[int] | None] = {}
        for entry in entries:
            host, port = _split_entry(entry)
            before = ports.get(host, frozenset())
            ports[host] = None if port is None or before is None else before | {port}
        return cls(ports)

    def check_url(self, url: str) -> Target:
        """Return where the URL leads.

        Raises:
            InvalidArgument: It is no http(s) URL of a host in the list.

        """
        try:
            parts = urlsplit(url)
            host, port = _normal(parts.hostname or ""), parts.port
        except ValueError as error:
            raise InvalidArgument(
                f"the callback URL cannot be read ({error}): give http(s)://host[:port]/path"
            ) from None
        if parts.scheme not in _DEFAULT_PORTS or not host or not _PLAIN.fullmatch(url):
            raise InvalidArgument(
                "a callback URL is http(s)://host[:port]/path in plain ASCII: write other characters percent-encoded, and "
                "the host in IDNA"
            )
        if parts.username is not None or parts.password is not None:
            raise InvalidArgument("a callback URL carries no user or password: deliveries are signed instead")
        port = _DEFAULT_PORTS[parts.scheme] if port is None else port
        netloc = f"{_bracketed(host)}:{port}"
        if not self._lists(host, port):
            raise InvalidArgument(f"callbacks to {netloc} are not allowed: an administrator can add it to {_SETTING}")
        return Target(parts.scheme, host, port, parts.path or "/", parts.query)

    def allows_address(self, host: str, address: Address, port: int) -> bool:
        """Tell whether a connection for this host of the list may be made to this address and port."""
        inside = _inside(address)
        if _is_public(inside) or (host == "localhost" and inside.is_loopback):
            return True
        return self._lists(str(address), port) or self._lists(str(inside), port)

    def _lists(self, host: str, port: int) -> bool:
        allowed = self.ports.get(host, frozenset())
        return allowed is None or port in allowed


def _split_entry(entry: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{entry}")
        host, port = _normal(parts.hostname or ""), parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if not host or parts.path or parts.query or parts.fragment or parts.username is not None:
        raise InvalidArgument(
            f"{_SETTING}: {entry!r} is not a host: write host or host:port, an IPv6 address as [::1]:port"
        )
    return host, port


def _normal(host: str) -> str:
    """Return one spelling of a host: lower case, no final dot, names in IDNA, IPv6 addresses compressed."""
    host = host.lower().removesuffix(".")
    if ":" in host:
        return str(ipaddress.ip_address(host))
    return host if host.isascii() else host.encode("idna").decode()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return not address.is_site_local
    return not any(address in network for network in _NOT_PUBLIC)


def _inside(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does: mapped, 6to4, or the NAT64 prefix."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return embedded or address
    return address


# What Python takes for public: protocol assignments, where a cloud keeps its metadata, and the address of another cloud's host.
_NOT_PUBLIC = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("168.63.129.16/32"))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
