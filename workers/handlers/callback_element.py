"""The built-in kind `callback.element`: hand one element of a callback task to the receiver of its queue.

Where that is comes from the version of the definition that the task was made of, what is sent along from the task's header.
What the receiver answers is the result, whether it took the element or refused it; only what it did not answer, or not for
now, is worth another attempt. Where the definition hides values, no message repeats what the receiver said.
"""

import json
from typing import Any

from pydantic import ValidationError

from schema.documents.definition import Callback
from schema.errors import InvalidArgument
from schema.storable import find_unstorable
from workers import Context, subtask
from workers.binding import MAX_DEPTH
from workers.callback_sender import Answer, CallbackFailed, NotDelivered, sender_of_this_process
from workers.environment import worker_settings
from workers.failures import Refused, ResultTooLarge

_TIMEOUT_SECONDS = 30.0
_SHOWN_LENGTH = 500
_UNSAID = "what else it said is not repeated here, because the definition hides values"
_SUCCESS = range(200, 300)
_REDIRECT = range(300, 400)
# The receiver took no decision: it may at another time.
_NOT_NOW = frozenset({408, 425, 429, *range(500, 600)})


@subtask("callback.element", retry_on=(NotDelivered, TimeoutError))
def element(ctx: Context, data: Any) -> Any:
    """POST one element of a callback task to its queue's receiver; `result: true` in the answer is success."""
    ctx.raise_if_cancelled()
    remaining = ctx.remaining_seconds
    most_bytes = worker_settings().max_value_bytes
    headers = dict(ctx.task.header)
    if ctx.traceparent is not None:
        headers["traceparent"] = ctx.traceparent
    answer = sender_of_this_process().send(
        _url(ctx),
        data,
        delivery=ctx.idempotency_key,
        timeout_seconds=_TIMEOUT_SECONDS if remaining is None else remaining,
        headers=headers,
        most_bytes=most_bytes,
        watch=ctx.raise_if_cancelled,
    )
    return _taken(answer, most_bytes, quoted=not ctx.task.redacts)


def _url(ctx: Context) -> str:
    if ctx.task.callback is None:
        raise InvalidArgument(
            f"task {ctx.task.id} is of type {ctx.task.task_type!r}, which has no callback: use kind 'http.callback', or submit it "
            "to a definition with a callback"
        )
    try:
        callback = Callback.model_validate(ctx.task.callback)
    except ValidationError as error:
        raise InvalidArgument(
            f"the callback of definition {ctx.task.task_type!r} cannot be used by this version: put the definition again"
        ) from error
    return callback.url + callback.path


def _taken(answer: Answer, most_bytes: int, *, quoted: bool) -> Any:
    """Return the receiver's answer where it says that it took the element."""
    said = None if answer.is_cut else _json(answer.body)
    result = said.get("result") if isinstance(said, dict) else None
    if isinstance(said, dict) and result is False:
        raise _refusal(said, quoted=quoted)
    if answer.status in _REDIRECT:
        raise CallbackFailed(f"the receiver answered {answer.status}; redirects are not followed: give the final URL")
    if answer.status not in _SUCCESS:
        kind = NotDelivered if answer.status in _NOT_NOW else CallbackFailed
        raise kind(f"the receiver answered {answer.status}: {_beginning(answer) if quoted else _UNSAID}")
    if answer.is_cut:
        raise ResultTooLarge(
            f"the answer takes more than {most_bytes} bytes (TASKSERVER_MAX_VALUE_BYTES): let the receiver answer less"
        )
    if result is not True:
        raise CallbackFailed(
            "the receiver's answer does not say whether it took the element: let it be a JSON object with a `result` of "
            f"true or false; it was: {_beginning(answer) if quoted else _UNSAID}"
        )
    return said


def _refusal(said: dict[str, Any], *, quoted: bool) -> Refused:
    code = said.get("bk_error_code", said.get("code"))
    message = said.get("bk_error_msg", said.get("message"))
    given = [code, message] if quoted else [code if isinstance(code, int) else None, _UNSAID]
    told = ": ".join(str(one) for one in given if one is not None and one != "") or "it gives no reason"
    unstorable = next(find_unstorable(said, depth=MAX_DEPTH), None)
    return Refused(f"the receiver answered {told}", said if unstorable is None else None)


def _json(body: bytes) -> Any:
    """Return what the body holds as JSON; None where that is nothing."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _beginning(answer: Answer) -> str:
    return answer.body.decode("utf-8", "replace")[:_SHOWN_LENGTH]
