"""Who may use the API: one principal by name, and the list of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, text

from taskserver.queries.reading import one_statement


@dataclass(frozen=True, slots=True)
class PrincipalRow:
    """A principal as stored."""

    name: str
    role: str
    account: str
    serial: int
    created_at: datetime


_COLUMNS = "name, role, account, serial, created_at"
_ONE = text(f"SELECT {_COLUMNS} FROM principals WHERE name = :name AND revoked_at IS NULL")
_ALL = text(
    f"""
SELECT {_COLUMNS} FROM principals
WHERE revoked_at IS NULL AND (CAST(:account AS text) IS NULL OR account = :account) ORDER BY name
"""
)


def find_principal(engine: Engine, name: str) -> PrincipalRow | None:
    """Return the principal of that name, unless it is revoked."""
    with one_statement(engine) as connection:
        row = connection.execute(_ONE, {"name": name}).mappings().one_or_none()
    return None if row is None else PrincipalRow(**row)


def list_principals(engine: Engine, *, account: str | None) -> Sequence[PrincipalRow]:
    """Return the principals of an account, or of all."""
    with one_statement(engine) as connection:
        return [PrincipalRow(**row) for row in connection.execute(_ALL, {"account": account}).mappings()]
