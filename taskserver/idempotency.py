"""Idempotency keys as callers give them: what a key may look like, and when two bodies are the same."""

import hashlib
import json
import re

from schema.errors import InvalidArgument
from schema.transitions.idempotency import IdempotentCall

HEADER = "Idempotency-Key"
MAX_LENGTH = 255
_KEY = re.compile(rf"[\x20-\x7e]{{1,{MAX_LENGTH}}}")


def check_key(key: str) -> str:
    """Return the key.

    Raises:
        InvalidArgument: It is no text of 1 to `MAX_LENGTH` printable ASCII characters.

    """
    if not _KEY.fullmatch(key):
        raise InvalidArgument(
            f"an idempotency key is 1 to {MAX_LENGTH} printable ASCII characters, and this one is not: a UUID does",
            target=HEADER,
        )
    return key


def idempotent_call(key: str | None, *, account: str, scope: str, document: object) -> IdempotentCall | None:
    """Return the call that a key stands for; None without a key.

    Args:
        key: What the caller gave.
        account: Whose; each account has keys of its own.
        scope: The call, and the thing that it is about: one key is for one call.
        document: The body as parsed JSON. The order of members and the spacing do not count.

    Raises:
        InvalidArgument: The key is malformed.

    """
    if key is None:
        return None
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return IdempotentCall(account, check_key(key), scope, hashlib.sha256(canonical.encode()).digest())
