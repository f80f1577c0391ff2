"""What a call of the client can end with besides its answer.

The tree; what a server refuses is an error of `schema.errors` as well, so one `except` fits calls over HTTP and in process::

    TaskserverError
    ├── ServerUnreachable     nobody answered; made again by the client, as long as its patience lasts
    ├── ServerRefused         the server answered with an error
    │   ├── NotFound, WrongState, RollbackProhibited, DuplicateInstance, IdempotencyKeyReused
    │   ├── InvalidSubmission, InvalidRequest, RequestTooLarge
    │   └── Unauthenticated, Forbidden, RateLimited
    ├── TaskTimeout           the task is not settled in time
    └── TaskFailed            it is settled and not SUCCESSFUL, and the caller asked for an error then
"""

from collections.abc import Mapping
from typing import Any

from schema import errors
from schema.errors import SubError, TaskserverError, Unavailable
from taskserver.client.answers import TaskDetail, TaskStatus


class ServerUnreachable(Unavailable):
    """No server answered, or one that has lost its database; the same call may succeed later.

    `may_have_arrived` is False where it is certain that no server has seen the call.
    """

    def __init__(
        self,
        message: str,
        *,
        target: str | None = None,
        may_have_arrived: bool = True,
        retry_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(message, target=target)
        self.may_have_arrived = may_have_arrived
        self.retry_after_seconds = retry_after_seconds


class ServerRefused(TaskserverError):
    """The server answered with an error; `http_status`, `error_code` and `error_type` are its own."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int,
        error_code: int = 0,
        error_type: str = "",
        target: str | None = None,
        sub_errors: tuple[SubError, ...] = (),
    ) -> None:
        super().__init__(message, target=target, sub_errors=sub_errors)
        self.http_status = http_status
        self.error_code = error_code
        self.error_type = error_type


class NotFound(ServerRefused, errors.NotFound):
    """There is no such thing in the caller's account."""


class WrongState(ServerRefused, errors.WrongState):
    """The task or subtask is not in a state that allows the verb."""


class RollbackProhibited(ServerRefused, errors.RollbackProhibited):
    """A subtask that has begun must not be rolled back; the message names it."""


class DuplicateInstance(ServerRefused, errors.DuplicateInstance):
    """An unsettled task of the same type and instance is there; `target` is its id."""


class IdempotencyKeyReused(ServerRefused, errors.IdempotencyKeyReused):
    """The idempotency key was used for another call."""


class InvalidSubmission(ServerRefused, errors.InvalidGraph):
    """The graph or one of its references is wrong."""


class InvalidRequest(ServerRefused, errors.InvalidArgument):
    """One or more fields are wrong; `sub_errors` names each."""


class RequestTooLarge(ServerRefused, errors.TooLarge):
    """The document passes a size limit of the server."""


class Unauthenticated(ServerRefused, errors.Unauthenticated):
    """The token is not that of a principal."""


class Forbidden(ServerRefused, errors.Forbidden):
    """The principal's role does not cover the call."""


class RateLimited(ServerRefused, errors.RateLimited):
    """Too many requests."""


class TaskTimeout(TaskserverError, TimeoutError):
    """The task was not settled in time; it goes on. `last_status` is the last one seen."""

    def __init__(self, status: TaskStatus, seconds: float) -> None:
        super().__init__(
            f"task {status.id} is {status.state} after {seconds:g} s of waiting: it goes on, and can be waited for again",
            target=str(status.id),
        )
        self.last_status = status


class TaskFailed(TaskserverError):
    """The task is settled and not SUCCESSFUL; `detail` tells the rest."""

    def __init__(self, detail: TaskDetail) -> None:
        reason = "" if detail.error is None else f": {detail.error.in_words}"
        super().__init__(f"task {detail.id} is {detail.state}{reason}", target=str(detail.id))
        self.detail = detail


_REFUSALS: Mapping[int, type[ServerRefused]] = {
    one.code: one
    for one in (
        NotFound,
        WrongState,
        RollbackProhibited,
        DuplicateInstance,
        IdempotencyKeyReused,
        InvalidSubmission,
        InvalidRequest,
        RequestTooLarge,
        Unauthenticated,
        Forbidden,
        RateLimited,
    )
}


def refusal(http_status: int, error: Mapping[str, Any]) -> ServerRefused:
    """Return the error that an envelope's `error` member tells; one of a newer server is a plain `ServerRefused`."""
    code = int(error.get("code", 0))
    return _REFUSALS.get(code, ServerRefused)(
        str(error.get("message", "")),
        http_status=http_status,
        error_code=code,
        error_type=str(error.get("type", "")),
        target=error.get("target"),
        sub_errors=tuple(
            SubError(str(one.get("field", "")), str(one.get("message", "")), one.get("rejectedValue"))
            for one in error.get("subErrors", ())
        ),
    )
