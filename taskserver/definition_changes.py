"""Putting and deleting definitions: checked as a submission is, as far as that can be told without its arguments."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine

from schema.callback_hosts import CallbackHosts
from schema.database import transaction
from schema.documents.definition import Definition, check_definition, check_name, read_definition
from schema.documents.problems import Problems
from schema.kinds import KindInfo
from schema.settings import Settings
from schema.transitions import definitions
from schema.transitions.definitions import NewDefinition, StoredVersion
from taskserver.argument_checks import ArgumentChecker
from taskserver.principals import Principal
from taskserver.queries.kinds import load_kinds


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
        _check_constants(definition, kinds)
        new = NewDefinition(account=by.account, name=name, document=document, creator=by.name)
        return definitions.put_definition(connection, new)


def delete_definition(engine: Engine, name: str, *, by: Principal) -> None:
    """End a definition of the principal's account; the tasks made of it keep their versions.

    Raises:
        NotFound: The account has no such definition.

    """
    with transaction(engine) as connection:
        definitions.delete_definition(connection, by.account, name)


def _check_constants(definition: Definition, kinds: Mapping[str, KindInfo]) -> None:
    checker, problems = ArgumentChecker(kinds), Problems("the definition")
    for index, subtask in enumerate(definition.subtasks or ()):
        if subtask.kind is not None and not problems.full:
            for wrong in checker.wrong_arguments(subtask.kind, subtask.arguments):
                field = f"/subtasks/{index}/arguments{wrong.pointer}"
                problems.argument(field, f"subtask {subtask.key!r}: {wrong.message}", wrong.value)
    problems.raise_if_any()
