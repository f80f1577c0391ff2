"""Putting and deleting definitions: checked as a submission is, as far as that can be told without its arguments."""

from typing import Any

from sqlalchemy import Engine

from schema.callback_hosts import CallbackHosts
from schema.database import transaction
from schema.documents.definition import check_definition, check_name, read_definition
from schema.settings import Settings
from schema.transitions import definitions
from schema.transitions.definitions import NewDefinition, StoredVersion
from schema.transitions.registrations import load_kinds
from taskserver.principals import Principal


def put_definition(engine: Engine, name: str, document: Any, *, by: Principal, settings: Settings) -> StoredVersion:
    """Store the document as a definition of the principal's account; an unchanged one makes no version.

    Raises:
        InvalidArgument, InvalidGraph, TooLarge: The name or the document is wrong; nothing was stored.
        Unavailable: PostgreSQL is away.

    """
    check_name(name)
    limits = settings.limits
    definition = read_definition(document, limits=limits)
    with transaction(engine) as connection:
        kinds = load_kinds(connection, {one.kind for one in definition.subtasks or () if one.kind is not None})
        hosts = CallbackHosts.parse(settings.callback_hosts)
        check_definition(definition, limits=limits, kinds=kinds, callback_hosts=hosts)
        new = NewDefinition(account=by.account, name=name, document=document, creator=by.name)
        return definitions.put_definition(connection, new)


def delete_definition(engine: Engine, name: str, *, by: Principal) -> None:
    """End a definition of the principal's account; the tasks made of it keep their versions.

    Raises:
        NotFound: The account has no such definition.

    """
    with transaction(engine) as connection:
        definitions.delete_definition(connection, by.account, name)
