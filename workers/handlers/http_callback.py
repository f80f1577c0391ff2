"""The built-in kind `http.callback`: tell another service something, by a signed POST."""

from typing import Annotated, Any

from pydantic import Field

from schema.errors import InvalidArgument
from workers import Context, subtask
from workers.callback_sender import Answer, CallbackFailed, sender_of_this_process

_TIMEOUT_SECONDS = 30.0
_SHOWN_LENGTH = 500
_SUCCESS = range(200, 300)
_REDIRECT = range(300, 400)


@subtask("http.callback", do_not_retry_on=InvalidArgument)
def callback(
    ctx: Context,
    url: str,
    payload: Any = None,
    headers: dict[str, str] | None = None,
    timeoutSeconds: Annotated[float, Field(gt=0, le=3600)] = _TIMEOUT_SECONDS,  # noqa: N803 - as submissions spell it
) -> dict[str, Any]:
    """POST the payload as JSON to a host of the allow-list; any status but 2xx is a failure.

    The delivery id is the same over automatic attempts, so that the receiver can tell a repetition.
    """
    ctx.raise_if_cancelled()
    remaining = ctx.remaining_seconds
    sent = dict(headers or {})
    if ctx.traceparent is not None:
        sent.setdefault("traceparent", ctx.traceparent)
    answer = sender_of_this_process().send(
        url,
        payload,
        delivery=ctx.idempotency_key,
        timeout_seconds=timeoutSeconds if remaining is None else min(timeoutSeconds, remaining),
        headers=sent,
        watch=ctx.raise_if_cancelled,
    )
    return _accepted(answer)


def _accepted(answer: Answer) -> dict[str, Any]:
    text = answer.body.decode("utf-8", "replace").replace("\x00", "\ufffd")
    if answer.status in _REDIRECT:
        raise CallbackFailed(f"the receiver answered {answer.status}; redirects are not followed: give the final URL")
    if answer.status not in _SUCCESS:
        raise CallbackFailed(f"the receiver answered {answer.status}: {text[:_SHOWN_LENGTH]}")
    return {"status": answer.status, "body": text, "isCut": answer.is_cut}
