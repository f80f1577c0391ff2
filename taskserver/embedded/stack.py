"""The embedded stack: a private PostgreSQL and Redis that live as long as a `with` block, in one directory.

`taskserver dev` opens it and adds its own parts to `supervisor`; the tests open it as a session fixture. The data outlive
everything, `kill -9` included: the next stack on the same directory takes healthy servers over and ends other orphans.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from taskserver.embedded.lock import locked
from taskserver.embedded.places import Places
from taskserver.embedded.postgres import NAME as POSTGRES
from taskserver.embedded.postgres import EmbeddedPostgres
from taskserver.embedded.redis import NAME as REDIS
from taskserver.embedded.redis import EmbeddedRedis
from taskserver.supervision.supervisor import Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Where to look for the server programs; None means the wheels, then the machine."""

    postgres: Iterable[Path] | None = None
    redis: Iterable[Path] | None = None


class EmbeddedStack:
    """A context manager: inside, both servers answer and are started again when they die.

    Entering raises `DirectoryInUse`, `ProgramMissing`, `CannotDropPrivileges`, `DirectoryUnsafe` or `PartDidNotStart`, all of
    them `TaskserverError` with the cure in the message, and leaves nothing running then.
    """

    def __init__(
        self,
        directory: Path,
        *,
        postgres_settings: Mapping[str, str] | None = None,
        search: Search | None = None,
        before_start: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a stack.

        Args:
            directory: Where everything is kept.
            postgres_settings: Settings for PostgreSQL beyond our own.
            search: Where to look for the server programs.
            before_start: Called when the directory is ours and what a killed stack left has ended; may raise.

        """
        self.directory = directory.resolve()
        self._before_start = before_start
        self._postgres_settings = postgres_settings
        self._search = search or Search()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self._start(opening)
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _start(self, opening: ExitStack) -> None:
        places = Places(self.directory)
        opening.enter_context(locked(places.lock))
        places.make()
        opening.callback(places.remove_short)
        redis = EmbeddedRedis(places, search=self._search.redis)
        postgres = EmbeddedPostgres(places, search=self._search.postgres, settings=self._postgres_settings)
        self.database_url, self.redis_url, self.redis_client_url = postgres.url, redis.url, redis.client_url
        self.supervisor = Supervisor(places.run)
        opening.callback(
            self.supervisor.end_orphans
        )  # of a killed stack, where this one ends before it takes them over
        opening.enter_context(self.supervisor)
        self.supervisor.end_orphans(keep={POSTGRES, REDIS})
        self._before_start()
        self.supervisor.add(redis.part())
        postgres.initialise()
        self.supervisor.add(postgres.part())
        self.supervisor.wait_ready(REDIS)
        self.supervisor.wait_ready(POSTGRES)
