"""The doctor at work on stored tasks, with planted workers."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

from redis import Redis
from sqlalchemy import Engine

from schema.celeryapp import make_redis
from schema.database import transaction
from schema.settings import Settings
from schema.transitions.registrations import Beat, WorkerInfo, beat, register_worker
from taskserver.diagnosis.examination import examine
from taskserver.diagnosis.finding import Finding
from taskserver.embedded.stack import EmbeddedStack
from tests.factories import StoredTask, execute

KINDS = ("test.kind",)
TICK_SECONDS = 0.1


class Clinic:
    """Examines tasks, and plants the workers that they need."""

    def __init__(self, engine: Engine, redis: Redis, settings: Settings) -> None:
        self.engine = engine
        self.redis = redis
        self.settings = settings

    def findings(self, task: StoredTask) -> tuple[Finding, ...]:
        return examine(self.engine, self.redis, self.settings, task.id, account="0").findings

    def findings_while(self, task: StoredTask, tick: Callable[[], object]) -> tuple[Finding, ...]:
        """Return what is found while something happens to the task, over and over; no worker falls silent over it."""
        self.settings = self.settings.model_copy(update={"dead_after_seconds": 60.0})
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(self.findings, task)
            while not wait([found], timeout=TICK_SECONDS).done:
                tick()
            return found.result()

    def only(self, task: StoredTask) -> Finding:
        found = self.findings(task)
        assert len(found) == 1, found
        return found[0]

    def types(self, task: StoredTask) -> list[str]:
        return [one.type for one in self.findings(task)]

    def summary(self, task: StoredTask) -> str:
        return examine(self.engine, self.redis, self.settings, task.id, account="0").summary

    def worker(
        self,
        number: int = 1,
        *,
        queue: str = "default",
        kinds: Sequence[str] | None = KINDS,
        claims: Sequence[int] = (),
        carriers: Sequence[int] = (),
        seconds: float = 600,
        silent: float = 0,
    ) -> int:
        """Store a worker of two slots that started so long ago, and beat for the last time `silent` seconds ago."""
        with transaction(self.engine) as connection:
            info = WorkerInfo(number, f"w{number}", "host1", 99, [queue], 2, "v", kinds=kinds)
            register_worker(connection, info)
            beat(connection, number, Beat(processes=[7], claims=claims, carriers=carriers, started=0))
        execute(
            self.engine,
            "UPDATE workers SET started_at = now() - :age * interval '1 s', beat_at = now() - :silent * interval '1 s'"
            " WHERE id = :id",
            age=seconds,
            silent=silent,
            id=number,
        )
        return number

    def busy_worker(self) -> int:
        """Store a worker whose slots are all taken by others: what waits, waits its turn."""
        return self.worker(carriers=[1, 2])


@contextmanager
def opened_clinic(engine: Engine, stack: EmbeddedStack) -> Iterator[Clinic]:
    """Open a clinic on the engine's database, with an empty broker."""
    url = engine.url.render_as_string(hide_password=False)
    settings = Settings(_env_file=None, database_url=url, redis_url=stack.redis_url)
    with make_redis(settings) as redis:
        redis.flushdb()
        yield Clinic(engine, redis, settings)
        redis.flushdb()
