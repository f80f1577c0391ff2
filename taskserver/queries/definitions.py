"""Definitions: the present ones of an account, one of them or of its versions, and what a submission needs of one."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, RowMapping, text

from schema.documents.definition import Definition as DefinitionDocument
from schema.documents.document import field_names
from schema.roundtrip import AnyConnection, Request, Row, fetch_together
from schema.transitions.definitions import no_definition
from taskserver.projection import wire_time
from taskserver.queries.reading import one_snapshot, one_statement
from taskserver.views.definitions import Author, Definition, Definitions, DefinitionVersion, DefinitionVersions
from taskserver.views.tasks import Page

# Beyond this sum a list leaves out what may be large; each can still be had by its name.
DOCUMENT_BYTES = 4 * 1024 * 1024
_MEMBERS = field_names(DefinitionDocument)
_COMPARED_NAMES = 1000  # difflib is slow over more

_HEAD = "id, name, version, created_by, created_at, deleted_at"
# The smallest come first, so that one large definition does not take the rest of the list with it.
_ALL = text(
    f"""
WITH newest AS (
    SELECT DISTINCT ON (name) {_HEAD}, subtask_count, summary, document, document_bytes FROM task_definitions
    WHERE account = :account AND deleted_at IS NULL ORDER BY name, version DESC
)
SELECT {_HEAD}, subtask_count, CASE
        WHEN sum(document_bytes) OVER (ORDER BY document_bytes, name) <= :most THEN document ELSE summary
    END AS document
FROM newest ORDER BY name
"""
)
_ONE = text(
    f"""
SELECT {_HEAD}, subtask_count, document FROM task_definitions
WHERE account = :account AND name = :name
    AND CASE WHEN CAST(:version AS integer) IS NULL THEN deleted_at IS NULL ELSE version = :version END
ORDER BY version DESC LIMIT 1
"""
)
_COUNT = text("SELECT count(*) FROM task_definitions WHERE account = :account AND name = :name")
_VERSIONS = text(
    f"""
SELECT {_HEAD} FROM task_definitions WHERE account = :account AND name = :name
ORDER BY version DESC LIMIT :size OFFSET :offset
"""
)
# As text, because a caller's own connection may read jsonb in its own way.
_NEWEST = text(
    """
SELECT id, CAST(document AS text) AS document FROM task_definitions
WHERE account = :account AND name = :name AND deleted_at IS NULL ORDER BY version DESC LIMIT 1
"""
)
_NAME = text("SELECT name FROM task_definitions WHERE id = :id AND account = :account")
_NAMES = text(
    f"""
SELECT DISTINCT name FROM task_definitions WHERE account = :account AND deleted_at IS NULL ORDER BY name
LIMIT {_COMPARED_NAMES}
"""
)


def list_definitions(engine: Engine, *, account: str) -> Definitions:
    """Return the newest version of each definition of the account, by name."""
    with one_statement(engine) as connection:
        rows = connection.execute(_ALL, {"account": account, "most": DOCUMENT_BYTES}).mappings().all()
    return Definitions(contents=[_view(row) for row in rows])


def show_definition(engine: Engine, name: str, *, account: str, version: int | None = None) -> Definition:
    """Return the newest version, or the one asked for, which may be a deleted one.

    Raises:
        NotFound: The account has no such definition, or no such version of it.

    """
    with one_statement(engine) as connection:
        parameters = {"account": account, "name": name, "version": version}
        row = connection.execute(_ONE, parameters).mappings().one_or_none()
    if row is None:
        raise no_definition(name, version)
    return _view(row)


def list_versions(engine: Engine, name: str, *, account: str, page: int, size: int) -> DefinitionVersions:
    """Return one page of the versions of a definition, the newest first, deleted ones too; pages count from 1.

    Raises:
        NotFound: The account never had such a definition.

    """
    parameters = {"account": account, "name": name, "size": size, "offset": (page - 1) * size}
    with one_snapshot(engine) as connection:
        total = connection.execute(_COUNT, parameters).scalar_one()
        rows = connection.execute(_VERSIONS, parameters).mappings().all()
    if not total:
        raise no_definition(name)
    return DefinitionVersions(
        contents=[DefinitionVersion(**_head(row)) for row in rows],
        page=Page(total_elements=total, total_pages=-(-total // size), number=page, size=size),
    )


@dataclass(frozen=True, slots=True)
class NewestVersion:
    """The version that a submission is made of."""

    id: int
    document: Any


def newest_version(connection: AnyConnection, name: str, *, account: str) -> NewestVersion | None:
    """Return the newest version of a definition; None where the account has no such definition."""
    rows = _fetch(connection, Request(_NEWEST, {"account": account, "name": name}))
    return NewestVersion(rows[0]["id"], json.loads(rows[0]["document"])) if rows else None


def definition_name(connection: AnyConnection, version_id: int, *, account: str) -> str | None:
    """Return the name of the definition that has a version with that id; None where the account has none."""
    rows = _fetch(connection, Request(_NAME, {"id": version_id, "account": account}))
    return rows[0]["name"] if rows else None


def closest_names(connection: AnyConnection, name: str, *, account: str) -> list[str]:
    """Return the names of definitions that may have been meant."""
    names = [row["name"] for row in _fetch(connection, Request(_NAMES, {"account": account}))]
    return difflib.get_close_matches(name, names, n=3)


def _fetch(connection: AnyConnection, request: Request) -> list[Row]:
    return fetch_together(connection, [request])[0]


def _view(row: RowMapping) -> Definition:
    members = {name: value for name, value in row["document"].items() if name in _MEMBERS}
    return Definition(**_head(row), subtask_count=row["subtask_count"], **members)


def _head(row: RowMapping) -> Mapping[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "version": row["version"],
        "creator": Author(name=row["created_by"]),
        "create_time": wire_time(row["created_at"]),
        "delete_time": wire_time(row["deleted_at"]),
    }
