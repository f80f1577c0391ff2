"""What makes two tasks the same work: account, task type, instance id and extra."""

import hashlib
import json

# A row of the unique index holds 2,704 bytes at most.
_MOST_BYTES = 2_000


def duplicate_key(
    *, account: str, task_type: str, instance_id: int | None, extra: str, on_duplicate: str
) -> str | None:
    """Return the key that at most one unsettled task holds; None where duplicates are allowed or cannot be told."""
    if instance_id is None or on_duplicate == "allow":
        return None
    key = json.dumps([account, task_type, instance_id, extra])
    return key if len(key) <= _MOST_BYTES else f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
