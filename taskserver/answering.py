"""Asking a part of ours over HTTP whether it works: one short question, no retry, no error."""

from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

_SECONDS = 1.0


def answer_of(host: str, port: int, path: str, **headers: str) -> bytes:
    """Return the body of a good answer; nothing where there is none."""
    connection = HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.read() if answer.status == HTTPStatus.OK else b""
    except (OSError, HTTPException):
        return b""
    finally:
        connection.close()
