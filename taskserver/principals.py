"""Who may use the API: roles, tokens, and the verbs on principals.

A token is made from the secret key, the principal's name and its serial, and says the name and serial itself, so that it
alone tells who comes. It is never stored: who shows one is compared, in constant time, with what it should be, and only
then is the database asked whether the name still exists with that serial.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Engine, text

from schema.accounts import OWNER_ACCOUNT
from schema.database import transaction
from schema.errors import Conflict, InvalidArgument, NotFound, SubError
from schema.settings import Settings
from taskserver.queries.principals import PrincipalRow

ADMIN_NAME = "admin"
# Who the audit says it was where no principal was: Flower, and the product itself.
RESERVED_NAMES = frozenset({"flower", "taskserver"})
_PREFIX = "ts1"
_PARTS = 4


class Role(StrEnum):
    """What a principal may do; each role may also do what those before it may."""

    TASK_VIEWER = "TASK_VIEWER"
    TASK_SUBMITTER = "TASK_SUBMITTER"
    TASK_MANAGER = "TASK_MANAGER"
    ADMIN = "ADMIN"

    def covers(self, needed: "Role") -> bool:
        """Tell whether this role may do what the needed one may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: proven by a credential, seeing and touching only its account."""

    name: str
    role: Role
    account: str

    @property
    def account_in_reach(self) -> str | None:
        """The account whose principals it may administer; None is all, for administrators of the owner's account."""
        return None if self.account == OWNER_ACCOUNT else self.account


@dataclass(frozen=True, slots=True)
class Tokens:
    """Makes tokens and tells whether one is right."""

    secret_key: str
    admin_token: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Tokens":
        """Return what the settings say."""
        given = settings.admin_token
        return cls(settings.require_secret_key(), None if given is None else given.get_secret_value())

    def token(self, name: str, serial: int) -> str:
        """Return the token of a principal; for the first administrator the one that the settings give, if they do."""
        if name == ADMIN_NAME and self.admin_token is not None:
            return self.admin_token
        encoded = base64.urlsafe_b64encode(name.encode()).rstrip(b"=").decode()
        mac = hmac.new(self.secret_key.encode(), f"{_PREFIX}.{serial}.{name}".encode(), hashlib.sha256).digest()
        return f"{_PREFIX}.{encoded}.{serial}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    def owner(self, token: str) -> str | None:
        """Return whose token it is, or was under an earlier serial; None where it was not made here."""
        if self.admin_token is not None and _same(token, self.admin_token):
            return ADMIN_NAME
        parts = token.split(".")
        if len(parts) != _PARTS or parts[0] != _PREFIX:
            return None
        try:
            padded = parts[1] + "=" * (-len(parts[1]) % 4)
            name = base64.b64decode(padded.encode(), altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        serial = parts[2]
        well_formed = serial.isascii() and serial.isdigit() and len(serial) <= len(str(2**31))
        return name if well_formed and _same(token, self.token(name, int(serial))) else None

    def belongs_to(self, token: str, principal: PrincipalRow) -> bool:
        """Tell whether this is the principal's present token."""
        return _same(token, self.token(principal.name, principal.serial))


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))


_BOOTSTRAP = text(
    """
INSERT INTO principals (name, role, account) VALUES (:name, 'ADMIN', :account)
ON CONFLICT (name) DO UPDATE SET role = 'ADMIN', account = excluded.account,
    serial = principals.serial + (principals.revoked_at IS NOT NULL)::int, revoked_at = NULL
WHERE principals.revoked_at IS NOT NULL OR principals.role <> 'ADMIN' OR principals.account <> excluded.account
"""
)
_SERIAL = text("SELECT serial FROM principals WHERE name = :name")
# A revoked name comes back with another serial, so that its old tokens stay dead.
_CREATE = text(
    """
INSERT INTO principals (name, role, account) VALUES (:name, :role, :account)
ON CONFLICT (name) DO UPDATE SET role = excluded.role, account = excluded.account, serial = principals.serial + 1,
    revoked_at = NULL, created_at = now()
WHERE principals.revoked_at IS NOT NULL
RETURNING name, role, account, serial, created_at
"""
)
_ROTATE = text(
    """
UPDATE principals SET serial = serial + 1
WHERE name = :name AND revoked_at IS NULL AND (CAST(:reach AS text) IS NULL OR account = :reach)
RETURNING name, role, account, serial, created_at
"""
)
_REVOKE = text(
    """
UPDATE principals SET revoked_at = now()
WHERE name = :name AND revoked_at IS NULL AND (CAST(:reach AS text) IS NULL OR account = :reach)
RETURNING name
"""
)


def bootstrap_admin(engine: Engine, settings: Settings) -> str:
    """Make sure that the first administrator exists, and return its token."""
    with transaction(engine) as connection:
        connection.execute(_BOOTSTRAP, {"name": ADMIN_NAME, "account": OWNER_ACCOUNT})
        serial = connection.execute(_SERIAL, {"name": ADMIN_NAME}).scalar_one()
    return Tokens.of(settings).token(ADMIN_NAME, serial)


def create_principal(engine: Engine, *, name: str, role: Role, account: str) -> PrincipalRow:
    """Store a principal.

    Raises:
        Conflict: The name is taken.
        InvalidArgument: The name is one that the audit uses for the product itself.

    """
    if name.lower() in RESERVED_NAMES:
        message = "is what the audit calls the product itself: choose another name"
        raise InvalidArgument(f"{name} {message}", target=name, sub_errors=(SubError("name", message, name),))
    with transaction(engine) as connection:
        parameters = {"name": name, "role": role, "account": account}
        row = connection.execute(_CREATE, parameters).mappings().one_or_none()
    if row is None:
        raise Conflict(f"principal {name!r} exists: choose another name, or rotate its token", target=name)
    return PrincipalRow(**row)


def rotate_principal(engine: Engine, tokens: Tokens, name: str, *, by: Principal) -> PrincipalRow:
    """Give the principal a new token; the old one ends at once.

    Raises:
        NotFound: No such principal in reach.
        InvalidArgument: Its token is a setting.

    """
    if name == ADMIN_NAME and tokens.admin_token is not None and by.account_in_reach is None:
        message = "has its token from TASKSERVER_ADMIN_TOKEN: change it there and start the server again"
        raise InvalidArgument(f"{name} {message}", sub_errors=(SubError("name", message, name),))
    with transaction(engine) as connection:
        row = connection.execute(_ROTATE, {"name": name, "reach": by.account_in_reach}).mappings().one_or_none()
    if row is None:
        raise _no_principal(name)
    return PrincipalRow(**row)


def revoke_principal(engine: Engine, name: str, *, by: Principal) -> None:
    """End the principal; its token is worth nothing from now on.

    Raises:
        NotFound: No such principal in reach.
        InvalidArgument: It is the caller.

    """
    if name == by.name:
        message = "is who asks: let another administrator remove it"
        raise InvalidArgument(f"{name} {message}", sub_errors=(SubError("name", message, name),))
    with transaction(engine) as connection:
        row = connection.execute(_REVOKE, {"name": name, "reach": by.account_in_reach}).one_or_none()
    if row is None:
        raise _no_principal(name)


def _no_principal(name: str) -> NotFound:
    return NotFound(f"principal {name!r} does not exist: list the principals to see which do", target=name)
