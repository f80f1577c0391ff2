"""The value types of a submission's fields: what each accepts, and the plain words for what it refuses.

Strict throughout: `"5"` is not a number and `true` is not 1, because a submission that means something else than it says is
found out only when it runs.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

_KEY = re.compile(r"\w[\w.:-]*")
_KEY_LENGTH = 200
_BIGINT_MAX = 2**63 - 1
_SECONDS_MAX = 10 * 366 * 24 * 3600


def _key(text: str) -> str:
    if len(text) > _KEY_LENGTH:
        raise ValueError(f"is longer than {_KEY_LENGTH} characters: shorten it")
    if not _KEY.fullmatch(text):
        raise ValueError(
            "is not a key: use letters, digits, '_', '.', ':' and '-', the first a letter, digit or '_' "
            "(brackets are kept for foreach: mount[0])"
        )
    return text


def _text_of_number(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _seed_spelling(value: object) -> object:
    return "SYS_ONCE" if value == "SYS_ONECE" else value


def _only_text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be a text such as 2026-12-01T00:00:00Z")  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is outside the years 1 to 9999 in UTC: give another time") from error


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL ({error}): give http:// or https:// with a host") from error
    if parts.scheme not in {"http", "https"} or not host or re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError("is not a URL to call: give http:// or https:// with a host, and no spaces")
    return text


Key = Annotated[str, AfterValidator(_key)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Title = Annotated[str, Field(min_length=1, max_length=500)]
Description = Annotated[str, Field(max_length=4000)]
# Part of a unique index, whose rows PostgreSQL caps at 2704 bytes.
Extra = Annotated[str, Field(max_length=400)]
BusinessId = Annotated[str, Field(max_length=64), BeforeValidator(_text_of_number)]
BigInt = Annotated[int, Field(ge=-_BIGINT_MAX - 1, le=_BIGINT_MAX)]
Seconds = Annotated[float, Field(gt=0, le=_SECONDS_MAX, allow_inf_nan=False)]
Backoff = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Attempts = Annotated[int, Field(ge=1, le=1000)]
Priority = Annotated[int, Field(ge=0, le=9)]
Concurrency = Annotated[int, Field(ge=-1, le=1_000_000)]
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_only_text), AfterValidator(_utc)]
HttpUrl = Annotated[str, Field(max_length=2048), AfterValidator(_http_url)]
TaskType = Annotated[Literal["MANUAL", "SYS_ONCE", "SCHEDULED", "SYS_SCHEDULED"], BeforeValidator(_seed_spelling)]
DuplicatePolicy = Literal["reject", "return", "queue", "allow"]
