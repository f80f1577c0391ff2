"""What an HTTP response means: the envelope's data, or the error that it tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from schema.errors import InvalidArgument, TaskserverError
from taskserver.client.errors import ServerRefused, ServerUnreachable, refusal

_UNREACHABLE = frozenset({502, 503, 504})
# What `httpx` raises where there is no answer, or where it could not so much as ask.
NO_ANSWER = (httpx.RequestError, httpx.InvalidURL, UnicodeError)
_CANNOT_BE_SENT = (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError)
# Nothing was sent where there was no connection to send it on.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call answered: the data (None where it had not changed) and its ETag."""

    data: Any
    etag: str | None = None


def reply_of(response: httpx.Response, url: str) -> Reply:
    """Return what the response says.

    Raises:
        ServerUnreachable: A proxy found no server, or the server is itself cut off.
        ServerRefused: The server answered with an error.

    """
    etag = response.headers.get("etag")
    if response.status_code == httpx.codes.NOT_MODIFIED:
        return Reply(None, etag)
    envelope = _envelope(response)
    if response.is_success and envelope is not None:
        return Reply(envelope.get("data"), etag)
    raise _error_of(response, envelope, url)


def no_answer(error: Exception, url: str) -> TaskserverError:
    """Return the error for one of `NO_ANSWER`: who was asked in vain, or why nobody could be."""
    reason = str(error) or type(error).__name__
    if isinstance(error, _CANNOT_BE_SENT):
        return InvalidArgument(f"the call cannot be sent: {reason}")
    return ServerUnreachable(
        f"no answer from {url} ({reason}): is the server running, and is TASKSERVER_URL right?",
        target=url,
        may_have_arrived=not isinstance(error, _NOT_SENT),
    )


def not_a_stream(url: str) -> ServerRefused:
    """Return the error for an answer that ends at once where events were asked for."""
    return ServerRefused(
        f"{url} answered without events: it is older than this client, or a proxy does not pass them",
        http_status=httpx.codes.OK,
        target=url,
    )


def _error_of(response: httpx.Response, envelope: Mapping[str, Any] | None, url: str) -> TaskserverError:
    error = envelope.get("error") if envelope is not None else None
    if not isinstance(error, dict):
        error = {"message": f"{url} answered HTTP {response.status_code}, not as a taskserver: check TASKSERVER_URL"}
    if response.status_code in _UNREACHABLE:
        return ServerUnreachable(
            str(error.get("message", "")), target=url, retry_after_seconds=_retry_after_seconds(response)
        )
    return refusal(response.status_code, error)


def _retry_after_seconds(response: httpx.Response) -> float:
    given = response.headers.get("retry-after", "")
    return float(given) if given.isascii() and given.isdigit() else 0.0


def _envelope(response: httpx.Response) -> Mapping[str, Any] | None:
    try:
        document = response.json()
    except ValueError:  # a proxy's page, or somebody else's server
        return None
    return document if isinstance(document, dict) and "successful" in document else None
