"""The errors that users and programs see.

Every error names the thing it is about and what the caller can do. `code` is the number that the HTTP envelope carries
(the numbers of the OCP task API where it has one). The tree::

    TaskserverError
    ├── Invalid           the request cannot be taken as it is
    │   ├── InvalidGraph      a cycle, an unknown upstream or kind, a bad reference
    │   ├── InvalidArgument   one or more fields are wrong; `sub_errors` names each
    │   ├── WrongState        the thing is not in a state that allows the verb
    │   ├── RollbackProhibited
    │   └── TooLarge
    ├── Refused           who asks may not
    │   ├── Unauthenticated
    │   ├── Forbidden
    │   └── RateLimited
    ├── NotFound
    ├── Conflict          another row is in the way
    │   ├── DuplicateInstance
    │   └── IdempotencyKeyReused
    └── Unavailable       a server is away; the same call may succeed later
        └── Busy              another transaction was in the way
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class SubError:
    """One wrong field: where it is (a JSON Pointer), what was given, and what would be right."""

    field: str
    message: str
    rejected_value: object = None


class TaskserverError(Exception):
    """Root of all errors of the product; `status` is the HTTP status, `code` the number in the envelope."""

    status: ClassVar[int] = 500
    code: ClassVar[int] = 10000

    def __init__(self, message: str, *, target: str | None = None, sub_errors: tuple[SubError, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.target = target
        self.sub_errors = sub_errors


class Invalid(TaskserverError):
    """The request cannot be taken as it is."""

    status = 400
    code = 10001


class InvalidGraph(Invalid):
    """The graph or one of its references is wrong."""

    code = 20001


class InvalidArgument(Invalid):
    """One or more fields are wrong; `sub_errors` names each."""


class WrongState(Invalid):
    """The thing is not in a state that allows the verb."""

    code = 20003


class RollbackProhibited(Invalid):
    """A subtask that has begun must not be rolled back."""

    code = 20004


class TooLarge(Invalid):
    """A size limit was passed."""

    status = 413
    code = 10002


class Refused(TaskserverError):
    """Who asks may not."""

    status = 403
    code = 30014


class Unauthenticated(Refused):
    """No valid credential came with the request."""

    status = 401
    code = 30001


class Forbidden(Refused):
    """The principal's role does not cover the call."""


class RateLimited(Refused):
    """Too many requests."""

    status = 429
    code = 10004


class NotFound(TaskserverError):
    """No such thing in the caller's account."""

    status = 404
    code = 20000


class Conflict(TaskserverError):
    """Another row is in the way."""

    status = 409
    code = 20005


class DuplicateInstance(Conflict):
    """An unsettled task already holds this task type and instance; `target` is its id."""


class IdempotencyKeyReused(Conflict):
    """The idempotency key was used with another body."""

    code = 20006


class Unavailable(TaskserverError):
    """A server is away; the same call may succeed later."""

    status = 503
    code = 10003


class Busy(Unavailable):
    """Another transaction was in the way; the same call may succeed at once."""
