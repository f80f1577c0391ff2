"""Calls under an idempotency key: whose key it is, and when two bodies are the same."""

import hashlib
import json

from schema.idempotency_keys import check_key
from schema.transitions.idempotency import IdempotentCall


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
