"""How both faces of the client come to be: from an address and a token, or from the settings."""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from taskserver.client.address import Address, known_address
from taskserver.client.connections import BlockingConnection, SuspendingConnection
from taskserver.client.session import PATIENCE_SECONDS, TIMEOUT_SECONDS, WAITING_PATIENCE_SECONDS, Session


class Opening(ABC):
    """The constructors of a client; each face says by which sort of connection it calls."""

    _connection: ClassVar[type[BlockingConnection] | type[SuspendingConnection]]

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        waiting_patience_seconds: float = WAITING_PATIENCE_SECONDS,
    ) -> None:
        """Make no connection yet.

        Args:
            url: `http://HOST:PORT`.
            token: The principal's token.
            timeout: Seconds that a server which took a call may be silent.
            patience_seconds: How long a call is made again while no server answers; 0 tries once.
            waiting_patience_seconds: The same while waiting for a task or following a log.

        Raises:
            InvalidArgument: The URL or the token is none.

        """
        connection = self._connection(Address.of(url, token, timeout))
        self._use(
            Session(connection, patience_seconds=patience_seconds, waiting_patience_seconds=waiting_patience_seconds)
        )

    @classmethod
    def from_settings(cls) -> Self:
        """Return the client of TASKSERVER_URL and TASKSERVER_TOKEN, else of the `taskserver dev` that runs here.

        Raises:
            InvalidArgument: A URL is set without a token.
            ServerUnreachable: No URL is set and no `dev` runs in `.taskserver`.

        """
        return cls(*known_address())

    @abstractmethod
    def _use(self, session: Session) -> None:
        """Make the calls by this session."""
