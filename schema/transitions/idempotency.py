"""Idempotency keys: which call a key was used for, and what it was answered, in the transaction of the call itself.

A call that is refused or rolled back leaves no key. Of two at once with the same key the second waits for the first, and is
then told the first one's answer.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, text

from schema.errors import IdempotencyKeyReused
from schema.roundtrip import AnyConnection, Request, fetch_together

VALID_HOURS = 24


@dataclass(frozen=True, slots=True)
class IdempotentCall:
    """A call with its key. `scope` names the call and the thing that it is about; `body_hash` tells what it was given."""

    account: str
    key: str
    scope: str
    body_hash: bytes


_AGE = f"interval '{VALID_HOURS} hours'"
# A key that is too old is a new one: its row is taken over.
_CLAIM = text(
    f"""
INSERT INTO idempotency_keys AS k (account, key, scope, body_hash) VALUES (:account, :key, :scope, :body_hash)
ON CONFLICT (account, key) DO UPDATE
    SET scope = excluded.scope, body_hash = excluded.body_hash, answer = NULL, created_at = excluded.created_at
    WHERE k.created_at < now() - {_AGE}
RETURNING key
"""
)
_EARLIER = text("SELECT scope, body_hash, answer FROM idempotency_keys WHERE account = :account AND key = :key")


def claim_key(connection: AnyConnection, call: IdempotentCall) -> Any | None:
    """Take the key for this call; return None, or what the earlier call with it was answered.

    Whoever gets None does the work, and tells `note_answer` in the same transaction.

    Raises:
        IdempotencyKeyReused: The key was used for something else.

    """
    parameters = asdict(call)
    while True:
        claimed, earlier = fetch_together(connection, [Request(_CLAIM, parameters), Request(_EARLIER, parameters)])
        if claimed:
            return None
        if earlier:  # else it was deleted between the two statements, because it had become too old
            break
    [row] = earlier
    _check_same(call, row["scope"], bytes(row["body_hash"]))
    return row["answer"]


def _check_same(call: IdempotentCall, scope: str, body_hash: bytes) -> None:
    if (scope, body_hash) == (call.scope, call.body_hash):
        return
    what = f"for another call ({scope})" if scope != call.scope else "with another body"
    raise IdempotencyKeyReused(
        f"the idempotency key {call.key!r} was used {what} in the last {VALID_HOURS} hours: send what was sent then to learn"
        " what became of it, or take a new key for what is new",
        target=call.key,
    )


_NOTE = text(
    "UPDATE idempotency_keys SET answer = CAST(:answer AS jsonb) WHERE account = :account AND key = :key RETURNING key"
)


def note_answer(connection: AnyConnection, call: IdempotentCall, answer: dict[str, Any]) -> None:
    """Store what the call was answered; a small document, from which the whole answer can be made again."""
    parameters = {"account": call.account, "key": call.key, "answer": json.dumps(answer)}
    [[_]] = fetch_together(connection, [Request(_NOTE, parameters)])


_KEPT = text("SELECT id FROM tasks WHERE id = ANY (CAST(:tasks AS bigint[]))")


def deleted_tasks(connection: AnyConnection, tasks: Sequence[int]) -> list[int]:
    """Return those of the tasks that are not there any more: a task may be deleted before its key is too old."""
    [rows] = fetch_together(connection, [Request(_KEPT, {"tasks": list(tasks)})])
    kept = {row["id"] for row in rows}
    return [task for task in tasks if task not in kept]


_DELETE = text(
    f"""
DELETE FROM idempotency_keys WHERE (account, key) IN (
    SELECT account, key FROM idempotency_keys WHERE created_at < now() - {_AGE}
    ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
"""
)


def delete_old_keys(connection: Connection, *, limit: int) -> int:
    """Delete keys that are of no use any more; return how many."""
    return connection.execute(_DELETE, {"limit": limit}).rowcount
