"""The ways an attempt ends other than by returning, and how each is named to people.

`Cancelled` and `TimedOut` are not `Exception`s, so that a handler's broad `except Exception` does not swallow the request
to stop. `error.type` is one of the words below, or the qualified name of the exception that the handler raised.
"""

import traceback
from pathlib import Path
from types import TracebackType

from workers.plain_text import as_lines, storable

MAX_MESSAGE_LENGTH = 2000
_LEAST_WORDS = 2

_OWN_CODE = str(Path(__file__).parent) + "/"
_HANDLERS = _OWN_CODE + "handlers/"


class Interruption(BaseException):
    """The attempt is to stop; passes through a handler's `except Exception`."""


class Cancelled(Interruption):
    """The attempt was asked to stop."""


class TimedOut(Interruption):
    """The attempt ran longer than its timeout allows."""


class UnknownKind(Exception):
    """The worker has no handler of the kind."""


class BadArgument(Exception):
    """The arguments are not what the handler takes, or one of their references cannot be resolved; never retried."""


class BadResult(Exception):
    """What the handler returned is not what its type hint says, or is not JSON."""


class ResultTooLarge(Exception):
    """What the handler returned takes more bytes than a result may."""


class Refused(Exception):
    """Whoever was asked to do the work answered that it does not; the answer stays with the attempt."""

    def __init__(self, message: str, answer: object = None) -> None:
        """Say why, and give the answer as JSON has it: storable, and no larger than a result may be."""
        super().__init__(message)
        self.answer = answer


_WORDS: dict[type[BaseException], str] = {
    Cancelled: "cancelled",
    TimedOut: "timeout",
    UnknownKind: "unknown_kind",
    BadArgument: "bad_argument",
    BadResult: "bad_result",
    ResultTooLarge: "result_too_large",
    Refused: "refused",
}


def error_type(error: BaseException) -> str:
    """Return the word for one of the endings above, or the exception's qualified name."""
    cls = type(error)
    if cls in _WORDS:
        return _WORDS[cls]
    return storable(cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}")


def error_message(error: BaseException) -> str:
    """Return the exception's message, storable and at most `MAX_MESSAGE_LENGTH` long.

    A single word that is not what the exception was raised with says little (`sys.exit(3)`, `KeyError("x")`): it comes after
    its type, which also stands where there is no message.
    """
    given = False
    try:
        message = str(error)
        given = _is_given(message, error)
    except Exception as unreadable:  # noqa: BLE001 - a handler's exception class may fail at anything
        message = f"its message cannot be shown: __str__ raised {type(unreadable).__name__}"
    message = storable(as_lines(message.strip()))
    if len(message.split()) < _LEAST_WORDS and not given and not _is_word(error):
        message = ": ".join(filter(None, (error_type(error), message)))
    message = message or error_type(error)
    return message if len(message) <= MAX_MESSAGE_LENGTH else message[: MAX_MESSAGE_LENGTH - 1] + "…"


def failure_text(error: BaseException) -> str:
    """Return what the attempt's log says of the failure: the traceback, from the handler's own first frame on.

    What the product itself found wrong (arguments, results, timeout, cancel) has no frame of a handler: one line.
    """
    frames = _from_handler(error.__traceback__) if isinstance(error, Interruption) or not _is_word(error) else None
    if frames is None and _is_word(error):
        return f"{error_type(error)}: {error_message(error)}\n"
    return "".join(traceback.TracebackException(type(error), error, frames, compact=True).format())


def _is_word(error: BaseException) -> bool:
    return type(error) in _WORDS


def _is_given(message: str, error: BaseException) -> bool:
    """Tell whether the message is the text that the exception was raised with."""
    return bool(message.strip()) and [one for one in error.args if isinstance(one, str)] == [message]


def _from_handler(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and _is_own(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_own(filename: str) -> bool:
    return filename.startswith(_OWN_CODE) and not filename.startswith(_HANDLERS)
