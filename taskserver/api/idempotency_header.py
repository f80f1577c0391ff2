"""The `Idempotency-Key` header of calls that change something."""

from typing import Annotated

from fastapi import Depends, Header, Request

from schema.errors import InvalidArgument
from schema.idempotency_keys import HEADER, MAX_LENGTH, check_key

_DESCRIPTION = (
    f"Names this call, for 24 hours: made again with the same key and body it changes nothing, and answers 200."
    f" 1 to {MAX_LENGTH} printable ASCII characters."
)


def _key(
    request: Request, key: Annotated[str | None, Header(alias=HEADER, description=_DESCRIPTION)] = None
) -> str | None:
    if len(request.headers.getlist(HEADER)) > 1:
        raise InvalidArgument(f"the header {HEADER} came more than once: send one", target=HEADER)
    return None if key is None else check_key(key)


IdempotencyKey = Annotated[str | None, Depends(_key)]
