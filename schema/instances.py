"""What makes two tasks the same work: account, task type, instance id and extra."""

import json


def duplicate_key(
    *, account: str, task_type: str, instance_id: int | None, extra: str, on_duplicate: str
) -> str | None:
    """Return the key that at most one unsettled task holds; None where duplicates are allowed or cannot be told."""
    if instance_id is None or on_duplicate == "allow":
        return None
    return json.dumps([account, task_type, instance_id, extra])
