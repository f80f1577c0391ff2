"""What an idempotency key may look like: one rule for the server that takes it and the client that sends it."""

import re

from schema.errors import InvalidArgument

HEADER = "Idempotency-Key"
MAX_LENGTH = 255
_KEY = re.compile(rf"[\x20-\x7e]{{1,{MAX_LENGTH}}}")


def check_key(key: object) -> str:
    """Return the key.

    Raises:
        InvalidArgument: It is no text of 1 to `MAX_LENGTH` printable ASCII characters, or has a blank at an edge.

    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InvalidArgument(
            f"an idempotency key is 1 to {MAX_LENGTH} printable ASCII characters, and this one is not: a UUID does",
            target=HEADER,
        )
    if key != key.strip():  # HTTP takes them away on its way: over it this would be another key than in process
        raise InvalidArgument(f"the idempotency key {key!r} begins or ends with a blank: leave it out", target=HEADER)
    return key
