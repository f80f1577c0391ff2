"""Definitions that handler modules hold beside their kinds: taken in when a module is imported, stored when a worker starts.

The document is checked at the start only: which kinds there are, and how large it may be, is not known before.
"""

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict

from pydantic.alias_generators import to_camel
from sqlalchemy import Connection
from structlog import get_logger

from schema.accounts import check_account
from schema.callback_hosts import CallbackHosts
from schema.documents.definition import check_name, parse_definition
from schema.errors import Invalid, InvalidArgument
from schema.kinds import KindInfo
from schema.settings import Settings
from schema.transitions.definitions import NewDefinition, put_definition
from schema.transitions.registrations import load_kinds

_log = get_logger("taskserver.worker")


class DefinitionMembers(TypedDict, total=False):
    """The members of a definition in Python's spelling; subtasks are written as in a submission."""

    description: str
    subtasks: Sequence[Mapping[str, Any]]
    arguments: Mapping[str, Any]
    queue: str
    callback: Mapping[str, Any]
    concurrency: int
    on_duplicate: str
    redact: Sequence[str]


@dataclass(frozen=True, slots=True)
class HeldDefinition:
    """A definition as a handler module holds it; `place` says for people where."""

    name: str
    account: str
    document: Mapping[str, Any]
    place: str

    @property
    def module(self) -> str:
        """The name of the module that holds it."""
        return self.place.partition(" (")[0]

    @classmethod
    def of(
        cls,
        name: str,
        document: Mapping[str, Any] | None,
        members: Mapping[str, object],
        *,
        account: str,
        place: str,
    ) -> Self:
        """Take a definition as it was written in Python, by its document or by its members; tuples are arrays.

        Raises:
            InvalidArgument: The name or the account is none, or the document is not made of JSON values.

        """
        try:
            check_name(name)
            check_account(account)
            return cls(name, account, _plain(document, members), place)
        except InvalidArgument as error:
            raise _located(name, place, error) from error

    def check(self, settings: Settings, kinds: Mapping[str, KindInfo]) -> None:
        """Check the document as the server does when it is put.

        Raises:
            Invalid: Names the definition, where it is held, and the place in the document.

        """
        hosts = CallbackHosts.parse(settings.callback_hosts)
        try:
            parse_definition(self.document, limits=settings.limits, kinds=kinds, callback_hosts=hosts)
        except Invalid as error:
            raise _located(self.name, self.place, error) from error


def calling_place(depth: int) -> str:
    """Return where the code stands that is so many calls above the caller, for people."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = None if frame is None else frame.f_back
    if frame is None:
        return "an unknown place"
    return f"{frame.f_globals.get('__name__')} ({frame.f_code.co_filename}:{frame.f_lineno})"


def register_definitions(
    connection: Connection, held: Iterable[HeldDefinition], settings: Settings, *, creator: str
) -> None:
    """Store each definition that is not what the newest version says; the kinds of this worker must be stored before.

    Raises:
        Invalid: One of them is wrong, or names a kind that no worker has registered.

    """
    in_order = sorted(held, key=lambda one: (one.account, one.name))
    kinds = load_kinds(connection) if in_order else {}
    for one in in_order:
        one.check(settings, kinds)
        stored = put_definition(connection, NewDefinition(one.account, one.name, one.document, creator))
        if stored.is_new:
            _log.info("definition stored", action="define", definition=one.name, version=stored.version)


def _plain(document: Mapping[str, Any] | None, members: Mapping[str, object]) -> dict[str, Any]:
    if document is not None and members:
        raise InvalidArgument("give the whole document or its members, not both")
    given = {to_camel(name): value for name, value in members.items()} if document is None else dict(document)
    try:
        plain: dict[str, Any] = json.loads(json.dumps(given))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the document is not JSON: {error}") from error
    return plain


def _located(name: object, place: str, error: Invalid) -> Invalid:
    message = f"definition {name!r} of {place}: {error.message}"
    return type(error)(message, target=error.target, sub_errors=error.sub_errors)
