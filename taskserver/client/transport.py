"""One HTTP call and its answer: credentials, the envelope, and errors that say what to do.

Knows nothing of tasks. A call that did not reach a server, or reached one that is itself cut off, raises
`ServerUnreachable` and may be made again; everything else that is refused raises `ServerRefused`.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from schema.errors import InvalidArgument, SubError, TaskserverError, Unavailable

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 90.0  # longer than the longest wait that a call may ask for
_NOT_MODIFIED = 304
_UNREACHABLE = frozenset({502, 503, 504})

Query = Mapping[str, str | int | float | Sequence[str]]


class ServerUnreachable(Unavailable):
    """No server answered, or one that has lost its database; the same call may succeed later."""


class ServerRefused(TaskserverError):
    """The server answered with an error; `http_status`, `error_code` and `error_type` are its own."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int,
        error_code: int = 0,
        error_type: str = "",
        target: str | None = None,
        sub_errors: tuple[SubError, ...] = (),
    ) -> None:
        super().__init__(message, target=target, sub_errors=sub_errors)
        self.http_status = http_status
        self.error_code = error_code
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call answered: the data (None where it had not changed) and its ETag."""

    data: Any
    etag: str | None


class Transport:
    """Calls to one server with one token; connections are kept."""

    def __init__(self, url: str, token: str) -> None:
        parsed = _parsed(url)
        self.url = url.rstrip("/")
        # A proxy for the rest of the world cannot reach this machine's own addresses.
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=not _is_local(parsed.host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make a call and return its data.

        Raises:
            ServerUnreachable: Nobody answered; whether a change was made is then unknown.
            ServerRefused: The server answered with an error.

        """
        try:
            response = self._http.request(
                method, path, params=dict(query or {}), json=body, headers=dict(headers or {})
            )
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ServerUnreachable(
                f"no answer from {self.url} ({reason}): is the server running, and is TASKSERVER_URL right?",
                target=self.url,
            ) from error
        return self._reply(response)

    def _reply(self, response: httpx.Response) -> Reply:
        etag = response.headers.get("etag")
        if response.status_code == _NOT_MODIFIED:
            return Reply(None, etag)
        envelope = _envelope(response)
        if response.is_success and envelope is not None:
            return Reply(envelope.get("data"), etag)
        raise self._error(response, envelope)

    def _error(self, response: httpx.Response, envelope: Mapping[str, Any] | None) -> TaskserverError:
        error = envelope.get("error") if envelope is not None else None
        if not isinstance(error, dict):
            error = {
                "message": f"{self.url} answered HTTP {response.status_code}, not as a taskserver: check TASKSERVER_URL"
            }
        message = str(error.get("message", ""))
        if response.status_code in _UNREACHABLE:
            return ServerUnreachable(message, target=self.url)
        sub_errors = tuple(
            SubError(str(one.get("field", "")), str(one.get("message", "")), one.get("rejectedValue"))
            for one in error.get("subErrors", ())
        )
        return ServerRefused(
            message,
            http_status=response.status_code,
            error_code=int(error.get("code", 0)),
            error_type=str(error.get("type", "")),
            target=error.get("target"),
            sub_errors=sub_errors,
        )


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InvalidArgument(f"{url!r} is not the address of a server: give http://HOST:PORT", target="url")
    return parsed


def _is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _envelope(response: httpx.Response) -> Mapping[str, Any] | None:
    try:
        document = response.json()
    except ValueError:  # a proxy's page, or somebody else's server
        return None
    return document if isinstance(document, dict) and "successful" in document else None
