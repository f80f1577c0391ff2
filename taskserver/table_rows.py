"""What a row of the published tasks table asks for: `template_id` names a definition, `argument` holds its arguments as JSON text.

Pure. The same for rows that come over HTTP and for those that were inserted by SQL.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from schema.documents.specification import Submission, parse_submission
from schema.errors import InvalidArgument, SubError, TaskserverError, TooLarge
from schema.limits import DEFAULT_LIMITS, Limits

ARGUMENT = "/argument"
TEMPLATE = "/template_id"


@dataclass(frozen=True, slots=True)
class NewTableRow:
    """What somebody gave for a new row; what they left out is None."""

    template_id: int
    argument: str | None = None
    integration_id: int | None = None
    user_id: int | None = None
    client_id: int | None = None
    account_id: int | None = None

    @property
    def business_ids(self) -> dict[str, int | None]:
        """The members of a submission that its other columns stand for."""
        return {
            "integrationId": self.integration_id,
            "userId": self.user_id,
            "clientId": self.client_id,
            "accountId": self.account_id,
            "templateId": self.template_id,
        }


def submission_of(
    argument: str | None, definition: str, limits: Limits = DEFAULT_LIMITS, **members: object
) -> Submission:
    """Return the submission that a row stands for.

    Args:
        argument: The text of its arguments; without any there are none.
        definition: The name of the definition that its `template_id` names.
        limits: How large it may be.
        members: What else the submission says, spelled as in its document.

    Raises:
        InvalidArgument: The argument is no JSON object, or holds what cannot be stored.
        TooLarge: It takes more than may be stored.

    """
    document = {**members, "definition": definition, "arguments": arguments_of(argument, limits)}
    return parse_submission(document, limits=limits)


def arguments_of(argument: str | None, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Return the arguments that a text holds; none for no text.

    Raises:
        InvalidArgument: It is no JSON object.
        TooLarge: It takes more than may be stored.

    """
    if not argument:
        return {}
    check_argument_bytes(len(argument.encode(errors="surrogatepass")), limits)
    try:
        arguments = json.loads(argument, object_pairs_hook=_members, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise _wrong(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _wrong("is nested too deep: make it flatter") from None
    except ValueError:
        raise _wrong("holds a whole number of thousands of digits: give it as text") from None
    if not isinstance(arguments, dict):
        raise _wrong('is not a JSON object: give the arguments by their names, such as {"host": "10.0.0.7"}')
    return arguments


def check_argument_bytes(size: int, limits: Limits) -> None:
    """Check how large the text of an argument is.

    Raises:
        TooLarge: It takes more than may be stored.

    """
    if size > limits.stored_bytes:
        raise TooLarge(
            f"argument takes {size} bytes, at most {limits.stored_bytes} are stored (TASKSERVER_MAX_VALUE_BYTES): "
            "keep the data elsewhere and pass where it is",
            target=ARGUMENT,
        )


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _wrong("has the same member twice in one object: keep one")
    return members


def _no_constant(name: str) -> object:
    raise _wrong(f"holds {name}, which JSON does not have: give a number or null")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _wrong("holds a number that is too large: give a smaller one, or a text")
    return number


def _wrong(message: str) -> InvalidArgument:
    """Return the error for an argument; it shows nothing of it, because any viewer may read it, and it may be a secret."""
    return InvalidArgument(f"argument {message}", target=ARGUMENT, sub_errors=(SubError(ARGUMENT, message),))


_COLUMNS: Mapping[str, str] = {"/arguments": ARGUMENT, "/definition": TEMPLATE}


def in_columns(error: TaskserverError) -> TaskserverError:
    """Return the error of a submission as one about the row that it was made of: it names columns."""
    problems = tuple(replace(one, field=_column(one.field)) for one in error.sub_errors)
    target = None if error.target is None else _column(error.target)
    return type(error)(error.message, target=target, sub_errors=problems)


def _column(field: str) -> str:
    first, slash, rest = field[1:].partition("/")
    known = _COLUMNS.get(f"/{first}")
    return field if known is None or not field.startswith("/") else f"{known}{slash}{rest}"
