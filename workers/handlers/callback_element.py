"""The built-in kind `callback.element`: hand one element of a callback task to the receiver of its queue.

Where that is comes from the version of the definition that the task was made of, what is sent along from the task's header.
What the receiver answers is the result, whether it took the element or refused it; only what it did not answer, or not for
now, is worth another attempt. What it said decides, also where too much of it came to be stored: then the data is left out of
the result. Where the definition hides values, no message repeats what the receiver said.
"""

import json
from typing import Any

from pydantic import ValidationError

from schema.documents.definition import Callback
from schema.errors import InvalidArgument
from schema.storable import find_unstorable, stored_size
from workers import Context, subtask
from workers.binding import MAX_DEPTH
from workers.callback_sender import Answer, CallbackFailed, NotDelivered, sender_of_this_process
from workers.environment import worker_settings
from workers.failures import Refused
from workers.plain_text import storable

READ_BYTES = 4 * 1024 * 1024
"""How much of an answer is read to learn what the receiver says."""

_TIMEOUT_SECONDS = 30.0
_SHOWN_LENGTH = 500
_UNSAID = "what else it said is not repeated here, because the definition hides values"
_COUNT_BYTES = 50  # what saying how long the answer was takes by itself
_LARGE_CODE = 2**63
_NO_JSON = object()
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
    read_bytes = max(READ_BYTES, most_bytes)
    headers = dict(ctx.task.header)
    if ctx.traceparent is not None:
        headers["traceparent"] = ctx.traceparent
    answer = sender_of_this_process().send(
        _url(ctx),
        data,
        delivery=ctx.idempotency_key,
        timeout_seconds=_TIMEOUT_SECONDS if remaining is None else remaining,
        headers=headers,
        most_bytes=read_bytes,
        watch=ctx.raise_if_cancelled,
    )
    said, quoted = _json(answer), not ctx.task.redacts
    if isinstance(said, dict) and said.get("result") is False:
        raise Refused(_refusal(said, quoted=quoted), _kept(said, answer, most_bytes))
    _check_status(answer, quoted=quoted)
    return _kept(_taken(said, answer, read_bytes, quoted=quoted), answer, most_bytes)


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


def _refusal(said: dict[str, Any], *, quoted: bool) -> str:
    code = said.get("bk_error_code", said.get("code"))
    message = said.get("bk_error_msg", said.get("message"))
    given = [code, message] if quoted else [code if isinstance(code, int) else None, _UNSAID]
    told = ": ".join(str(one) for one in given if one is not None and one != "") or "it gives no reason"
    return f"the receiver answered {told}"


def _check_status(answer: Answer, *, quoted: bool) -> None:
    if answer.status in _REDIRECT:
        raise CallbackFailed(f"the receiver answered {answer.status}; redirects are not followed: give the final URL")
    if answer.status not in _SUCCESS:
        kind = NotDelivered if answer.status in _NOT_NOW else CallbackFailed
        raise kind(f"the receiver answered {answer.status}: {_beginning(answer) if quoted else _UNSAID}")


def _taken(said: Any, answer: Answer, read_bytes: int, *, quoted: bool) -> dict[str, Any]:
    """Return what a receiver says that took the element."""
    if answer.is_cut:
        raise NotDelivered(
            f"the receiver answered {answer.status} with more than {read_bytes} bytes: let it answer less"
        )
    if said is _NO_JSON:
        shown = _beginning(answer) if quoted else _UNSAID
        raise NotDelivered(f"the receiver answered {answer.status} with what is no JSON: {shown}")
    if not isinstance(said, dict) or said.get("result") is not True:
        raise CallbackFailed(
            "the receiver's answer does not say whether it took the element: let it be a JSON object with a `result` of "
            f"true or false; it was: {_beginning(answer) if quoted else _UNSAID}"
        )
    return said


def _kept(said: dict[str, Any], answer: Answer, most_bytes: int) -> dict[str, Any]:
    """Return what is stored of an answer: all of it, or what is left without its data, and how long it was."""
    if _fits(said, most_bytes):
        return said
    code = said.get("bk_error_code")
    short = {
        "result": said["result"],
        "bk_error_code": code if type(code) is int and abs(code) < _LARGE_CODE else 0,
        "bk_error_msg": storable(str(said.get("bk_error_msg") or ""))[:_SHOWN_LENGTH],
        "permission": None,
        "data": None,
    }
    without_data = {**said, "data": None}
    kept = without_data if _fits(without_data, most_bytes - _COUNT_BYTES) else short
    return {**kept, "data_omitted_bytes": len(answer.body)}


def _fits(said: dict[str, Any], most_bytes: int) -> bool:
    return not any(find_unstorable(said, depth=MAX_DEPTH)) and stored_size(said) <= most_bytes


def _json(answer: Answer) -> Any:
    """Return what the answer says as JSON; `_NO_JSON` where it is none, or not all of it was read."""
    try:
        return _NO_JSON if answer.is_cut else json.loads(answer.body)
    except (ValueError, RecursionError):
        return _NO_JSON


def _beginning(answer: Answer) -> str:
    return answer.body.decode("utf-8", "replace")[:_SHOWN_LENGTH]
