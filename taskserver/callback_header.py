"""Which headers of a request stay with a callback task, to be sent again with each of its callbacks.

They tell who asked, in which account, in which language, and under which request id, so that the receiver acts as that user
and its log joins with the caller's. Nothing that proves who somebody is stays: no token, no ticket, no cookie, no authorization,
and nothing by which a receiver would trust a request more. Each is kept under the name that it came with.
"""

import re
from collections.abc import Iterable, Mapping

from schema.errors import InvalidArgument, SubError
from taskserver.new_rows import Submitter

_REQUEST_ID = ("X-Bkapi-Request-Id", "Cc_Request_Id", "X-Bkcmdb-Rid", "X-Request-Id")
_USER = ("X-Bkcmdb-User", "BK_User")
_ACCOUNT = ("X-Bkcmdb-Supplier-Account", "HTTP_BLUEKING_SUPPLIER_ID", "HTTP_BK_SUPPLIER_ACCOUNT", "X-Bk-Tenant-Id")
_OTHERS = (
    "X-Bkcmdb-Language",
    "HTTP_BLUEKING_LANGUAGE",
    "Blueking_Language",
    "X-Bkcmdb-App-Code",
    "Bk-App-Code",
    "X-Real-Ip",
    "X-Bkcmdb-Request-From-Web",
    "Cc_Request_From_Web",
    "Cc_Read_Preference",
)
# Receivers of either generation find what they read: the names of an API gateway first, then those of before.
_WRITTEN = 2
_KEPT = {name.lower(): name for name in (*_REQUEST_ID, *_USER, *_ACCOUNT, *_OTHERS)}
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_MOST_CHARACTERS = 512
_TRACE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


def stored_header(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those of a request's headers that a callback task keeps; the case of names says nothing, empty ones are left out.

    Raises:
        InvalidArgument: One of them cannot be sent again as it is: it is no short line of printable ASCII.

    """
    kept: dict[str, str] = {}
    for given, value in headers.items():
        name = _KEPT.get(given.lower())
        if name is None or not (trimmed := value.strip()):
            continue
        if len(trimmed) > _MOST_CHARACTERS or not _VALUE.fullmatch(trimmed):
            message = f"is not one line of at most {_MOST_CHARACTERS} printable ASCII characters: correct it"
            raise InvalidArgument(f"header {name} {message}", target=name, sub_errors=(SubError(name, message),))
        kept.setdefault(name, trimmed)
    return kept


def completed_header(header: Mapping[str, str], submitter: Submitter) -> dict[str, str]:
    """Return a stored header with what receivers always need; the account is always the submitter's own."""
    kept = {**stored_header(header)}
    kept |= {name: submitter.account for name in _ACCOUNT if name in kept}
    kept |= _missing(kept, _ACCOUNT, submitter.account)
    kept |= _missing(kept, _USER, submitter.name)
    kept |= _missing(kept, _REQUEST_ID, submitter.trace_id)
    return kept


def request_id(header: Mapping[str, str]) -> str | None:
    """Return the request id of a stored header, where it can serve as a trace id."""
    given = next((header[name] for name in _REQUEST_ID if name in header), "")
    return given if _TRACE_ID.fullmatch(given) else None


def _missing(header: Mapping[str, str], names: Iterable[str], value: str | None) -> dict[str, str]:
    """Return the value under the names that are written, unless the header has one of the names or it cannot be sent."""
    known = tuple(names)
    if value is None or not header.keys().isdisjoint(known) or not _VALUE.fullmatch(value):
        return {}
    return dict.fromkeys(known[:_WRITTEN], value)
