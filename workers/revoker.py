"""Revokes from Flower and `celery control`: the cancel verb, beside the worker's main loop, which must wait for no locked row.

Remote control reaches every worker at once: the first does it, and to the others it is done. Each id is tried, whatever
became of the one before it.
"""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field

from sqlalchemy import Engine
from structlog import get_logger

from schema.database import transaction
from schema.errors import TaskserverError
from schema.transitions import revocations
from schema.transitions.orders import Order

_QUICK_SECONDS = 0.5  # who revokes waits so long for the outcome, and the main loop with it
_STOP_SECONDS = 1.0
_log = get_logger("taskserver.worker")


@dataclass(frozen=True, slots=True)
class Revocation:
    """What became of a revoke: the hex ids that are being stopped, and why each of the others is not."""

    done: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Asked:
    hex_ids: Sequence[str]
    order: Order
    outcome: Future[Revocation] = field(default_factory=Future)


class Revoker:
    """A thread of the main process that cancels what was revoked, until it is stopped."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="revoker", daemon=True)
        self._late: Future[Revocation] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; what waits for a locked row is given up."""
        self._asked.put(None)
        self._thread.join(_STOP_SECONDS)

    def revoke(self, hex_ids: Sequence[str], *, actor: str) -> Revocation | None:
        """Cancel tasks and subtasks of any worker, in the name of `actor`; None while it is not known what became of it.

        To be called from one thread.
        """
        asked = _Asked(hex_ids, Order(actor, account=None, reason="revoked by remote control"))
        self._asked.put(asked)
        if self._late is not None and not self._late.done():
            return None  # behind one that is slow: the main loop waits once for both
        self._late = asked.outcome
        try:
            return asked.outcome.result(_QUICK_SECONDS)
        except NotYet:
            return None

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            asked.outcome.set_result(self._revoke_each(asked))

    def _revoke_each(self, asked: _Asked) -> Revocation:
        revocation = Revocation()
        for hex_id in dict.fromkeys(asked.hex_ids):
            refusal = self._guarded_revoke(hex_id, asked.order)
            if refusal is None:
                revocation.done.append(hex_id)
            else:
                revocation.refused[hex_id] = refusal
                _log.warning("revoke refused", action="revoke", id=hex_id, error=refusal)
        return revocation

    def _guarded_revoke(self, hex_id: str, order: Order) -> str | None:
        """Revoke one; return why that is refused, if it is."""
        try:
            with transaction(self._engine) as connection:
                revocations.revoke(connection, hex_id, order)
        except TaskserverError as error:
            return error.message
        except Exception:  # noqa: BLE001 - without this thread nothing could be revoked here
            _log.exception("revoke failed", action="revoke", id=hex_id)
            return f"{hex_id} could not be revoked: the worker's log says why"
        return None
