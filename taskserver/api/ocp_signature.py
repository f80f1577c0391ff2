"""OCP's AK/SK signature: the access key is a principal's name, the secret key its token.

What is signed is made anew from the request as it came, so that a client of OCP needs no change. Where its published clients
differ in spelling (how a query is escaped, what stands for no body) each spelling is tried; all of them say the same
request. A signature can be shown again as long as its date is near: nothing else bounds that.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote, quote_plus

from fastapi import Request

from schema.documents.problems import QUOTED_LENGTH, printable, shortened
from schema.errors import Unauthenticated
from taskserver.principals import Tokens
from taskserver.queries.principals import PrincipalRow

SCHEME = "OCP-ACCESS-KEY-HMACSHA1"
WINDOW = timedelta(minutes=15)
_PREFIX = "OCP-ACCESS-KEY-"
_VALUE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}):([A-Za-z0-9+/]{27}=)")
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|[+-][0-9]{4})")
_OCP_HEADERS = b"x-ocp-"


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature with the texts of which it may be; whose it is tells the name, if the token of that name made it."""

    name: str
    digest: bytes
    texts: tuple[bytes, ...]
    refusal: str

    def owner(self, _tokens: Tokens) -> str:
        """Return whose signature it says it is."""
        return self.name

    def is_by(self, principal: PrincipalRow, tokens: Tokens) -> bool:
        """Tell whether the principal's present token made it."""
        key = tokens.token(principal.name, principal.serial).encode("utf-8", "surrogatepass")
        # All are compared, so that the time does not tell which one fits.
        fits = [hmac.compare_digest(hmac.digest(key, text, "sha1"), self.digest) for text in self.texts]
        return any(fits)


async def signature_of(request: Request, body: Callable[[], Awaitable[bytes]]) -> Signature | None:
    """Return the signature that the request bears; None where it bears none.

    Args:
        request: The request.
        body: Reads the body. It is called only for a signature that may be right.

    Raises:
        Unauthenticated: It is of another form, or its date is not near.

    """
    given, _, value = request.headers.get("authorization", "").partition(" ")
    if not given.upper().startswith(_PREFIX):
        return None
    found = _VALUE.fullmatch(value.strip())
    if given.upper() != SCHEME or found is None:
        raise Unauthenticated(
            f"the signature is not of the form {SCHEME} NAME:SIGNATURE, the latter base64 of HMAC-SHA1"
        )
    date = _date_of(request)
    texts = tuple(_texts(request, date, await body()))
    return Signature(found[1], base64.b64decode(found[2]), texts, _refusal(request))


def _date_of(request: Request) -> bytes:
    """Return the date as it was written, once it is near.

    Raises:
        Unauthenticated: There is none, it cannot be read, or it is too far away.

    """
    written = _header(request, b"date") or _header(request, b"x-ocp-date")
    if not written:
        raise Unauthenticated("the request is signed, but has no Date header: send the time that was signed")
    text = written.decode("latin-1")
    try:
        # What does not match is not parsed, and fails as what cannot be parsed does.
        moment = parsedate_to_datetime(text if _DATE.fullmatch(text) else "")
    except ValueError:
        raise Unauthenticated("the Date is not of the form of RFC 1123: Tue, 17 Jan 2023 03:36:01 GMT") from None
    # Without an offset ("-0000") it is UTC all the same.
    if abs(datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))) > WINDOW:
        minutes = WINDOW // timedelta(minutes=1)
        raise Unauthenticated(
            f"the Date is more than {minutes} minutes from the server's time: set the clock, sign anew"
        )
    return written


def _texts(request: Request, date: bytes, body: bytes) -> Iterator[bytes]:
    method = request.method.encode()
    kept = _header(request, b"content-type"), date, _header(request, b"host"), _ocp_headers(request)
    for digest in _digests(body):
        for address in _addresses(request):
            yield b"\n".join((method, digest, *kept, address))


def _digests(body: bytes) -> list[bytes]:
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest().encode()
    return [digest.upper(), digest] if body else [b"", digest.upper(), digest]


def _addresses(request: Request) -> list[bytes]:
    """Return the path with the sorted query as it is signed: escaped as Java does it, and as RFC 3986 has it."""
    path: bytes = request.scope["raw_path"]
    parameters = sorted(request.query_params.multi_items(), key=lambda parameter: parameter[0])
    if not parameters:
        return [path]
    queries = {
        "&".join(f"{escape(name)}={escape(value)}" for name, value in parameters) for escape in (_java, _rfc3986)
    }
    return [path + b"?" + query.encode() for query in queries]


def _java(text: str) -> str:
    return quote_plus(text, safe="*").replace("~", "%7E")


def _rfc3986(text: str) -> str:
    return quote(text, safe="")


def _ocp_headers(request: Request) -> bytes:
    found: dict[bytes, list[bytes]] = {}
    for name, value in request.headers.raw:
        if name.lower().startswith(_OCP_HEADERS):
            found.setdefault(name.lower(), []).append(value)
    return b"\n".join(name + b":" + b",".join(values) for name, values in sorted(found.items()))


def _header(request: Request, wanted: bytes) -> bytes:
    return next((value for name, value in request.headers.raw if name.lower() == wanted), b"")


def _refusal(request: Request) -> str:
    """Return the same for a name that nobody has and for a wrong signature: names are not to be found out."""
    content_type, host = (
        repr(shortened(printable(_header(request, name).decode("latin-1")), QUOTED_LENGTH))
        for name in (b"content-type", b"host")
    )
    return (
        f"the signature is not that of this request: sign method {request.method}, the body's MD5, content type {content_type},"
        f" the Date, host {host}, the x-ocp- headers (an empty line where there are none)"
        " and the path with its sorted query, each on a line, with the token as key"
    )
