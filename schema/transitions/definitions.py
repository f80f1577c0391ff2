"""Definitions: each change makes a version, none is ever altered, and a task keeps the one that it was made of.

Whoever changes a definition holds its lock until the transaction ends, so that versions follow each other without gaps and an
unchanged document makes none. Several in one transaction are changed in the order of their names, or two would wait for each other.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from schema.errors import NotFound


@dataclass(frozen=True, slots=True)
class NewDefinition:
    """A definition to store; the document has been checked."""

    account: str
    name: str
    document: Mapping[str, object]
    creator: str


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """The version that holds a document, and whether it was made for it."""

    id: int
    version: int
    is_new: bool


_LOCK_SPACE = 0x64656673  # other uses of advisory locks have other spaces
_LOCK = text(
    f"SELECT pg_advisory_xact_lock({_LOCK_SPACE}, hashtext(CAST(:account AS text) || '/' || CAST(:name AS text)))"
)
_PUT = text(
    """
WITH newest AS (
    SELECT id, version, document = CAST(:document AS jsonb) AND deleted_at IS NULL AS is_same
    FROM task_definitions WHERE account = :account AND name = :name ORDER BY version DESC LIMIT 1
), added AS (
    INSERT INTO task_definitions (account, name, version, document, created_by)
    SELECT :account, :name, coalesce((SELECT version FROM newest), 0) + 1, CAST(:document AS jsonb), :creator
    WHERE NOT EXISTS (SELECT FROM newest WHERE is_same)
    RETURNING id, version
)
SELECT id, version, true AS is_new FROM added UNION ALL SELECT id, version, false FROM newest WHERE is_same
"""
)
_DELETE = text(
    """
UPDATE task_definitions SET deleted_at = now() WHERE account = :account AND name = :name AND deleted_at IS NULL
RETURNING id
"""
)


def put_definition(connection: Connection, definition: NewDefinition) -> StoredVersion:
    """Store the document as the next version, unless the newest one is the same and not deleted."""
    parameters = {
        "account": definition.account,
        "name": definition.name,
        "document": json.dumps(definition.document),
        "creator": definition.creator,
    }
    connection.execute(_LOCK, parameters)
    row = connection.execute(_PUT, parameters).one()
    return StoredVersion(id=row.id, version=row.version, is_new=row.is_new)


def delete_definition(connection: Connection, account: str, name: str) -> None:
    """End the definition: no task can be made of it any more, until it is put again; its tasks keep their versions.

    Raises:
        NotFound: The account has no such definition.

    """
    parameters = {"account": account, "name": name}
    connection.execute(_LOCK, parameters)
    if not connection.execute(_DELETE, parameters).all():
        raise no_definition(name)


def no_definition(name: str, version: int | None = None) -> NotFound:
    """Return the error for a definition that is not there, or is another account's: the two must look the same."""
    what = f"definition {name!r}" if version is None else f"version {version} of definition {name!r}"
    return NotFound(f"{what} does not exist: list the definitions to see which do", target=name)
