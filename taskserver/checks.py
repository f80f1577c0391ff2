"""What `taskserver check` proves: settings, database, migrations, broker, workers, kinds, Flower, each with its cure.

Changes nothing. Addresses are shown as they are used, with secrets masked.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import httpx
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from schema.celeryapp import make_redis
from schema.database import make_engine
from schema.errors import TaskserverError, Unavailable
from schema.migration import head_revision
from schema.settings import Settings
from taskserver.queries.health import database_revision
from taskserver.queries.reading import one_statement
from taskserver.queries.registry import known_workers, registered_kinds

OLDEST_POSTGRES = 14
OLDEST_REDIS = (6, 2)
MASK = "***"
_FLOWER_SECONDS = 3.0
_SECRET_NAMES = frozenset({"password", "sslpassword", "passfile"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `cure` says what to do where it failed, or may come to."""

    name: str
    ok: bool
    detail: str
    cure: str | None = None
    address: str | None = None

    def document(self) -> dict[str, object]:
        """Return the finding as JSON has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in order."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything is as it must be."""
        return all(one.ok for one in self.findings)

    def document(self) -> dict[str, object]:
        """Return the report as JSON has it."""
        return {"ok": self.ok, "checks": [one.document() for one in self.findings]}


def run_checks(settings: Settings, *, of_worker: bool = False) -> Report:
    """Check everything; what cannot be checked because something before it failed is said to be so.

    Args:
        settings: What to check.
        of_worker: They are a worker's, which has no secret key.

    """
    findings = [_check_settings(settings, of_worker=of_worker)]
    if settings.redis_url is not None:
        findings.append(_check_broker(settings))
    if settings.database_url is not None:
        engine = make_engine(settings.require_database(), name="taskserver-check", pool_size=1)
        try:
            findings.extend(_check_database(settings, engine))
        finally:
            engine.dispose()
    if settings.flower_url is not None:
        findings.append(_check_flower(settings.flower_url))
    return Report(findings)


def shown_address(url: str) -> str:
    """Return the address readable, socket paths included, with passwords masked."""
    parts = urlsplit(url)
    location = parts.netloc
    if "@" in location:
        user, _, host = location.rpartition("@")
        location = f"{user.split(':')[0]}{':' + MASK if ':' in user else ''}@{host}"
    query = [(name, MASK if name.lower() in _SECRET_NAMES else value) for name, value in parse_qsl(parts.query)]
    shown = (
        f"{parts.scheme}://{location}{unquote(parts.path)}"  # urlunsplit drops the slashes of an address without host
    )
    return f"{shown}?{unquote(urlencode(query))}" if query else shown


def _check_settings(settings: Settings, *, of_worker: bool) -> Finding:
    needed = {"TASKSERVER_DATABASE_URL": settings.database_url, "TASKSERVER_REDIS_URL": settings.redis_url}
    if not of_worker:
        needed["TASKSERVER_SECRET_KEY"] = settings.secret_key
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        cure = "set them, or run `taskserver dev`, which brings its own servers"
        return Finding("settings", ok=False, detail=f"not set: {', '.join(missing)}", cure=cure)
    handlers = ", ".join(settings.handlers) or "none but the built-in ones"
    return Finding("settings", ok=True, detail=f"complete; handlers: {handlers}")


def _check_broker(settings: Settings) -> Finding:
    address = shown_address(settings.require_redis())
    with make_redis(settings) as redis:
        try:
            info = redis.info()
        except RedisError as error:
            cure = "see that Redis runs there and that TASKSERVER_REDIS_URL is right"
            return Finding("broker", ok=False, detail=f"does not answer: {error}", cure=cure, address=address)
    version, policy = str(info["redis_version"]), str(info.get("maxmemory_policy", "unknown"))
    found = f"Redis {version}, maxmemory-policy {policy}"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        return Finding("broker", ok=False, detail=found, cure="use Redis 6.2 or newer, or Valkey", address=address)
    if policy != "noeviction":
        cure = "set `maxmemory-policy noeviction` in its configuration: it may else drop messages that it accepted"
        return Finding("broker", ok=False, detail=found, cure=cure, address=address)
    return Finding("broker", ok=True, detail=found, address=address)


def _check_flower(url: str) -> Finding:
    """Show where Flower is. It is never amiss: the address is for people's browsers, and may not be reached from here."""
    try:
        answers = httpx.get(f"{url}/healthcheck", timeout=_FLOWER_SECONDS).is_success
    except httpx.HTTPError:
        answers = False
    return Finding("flower", ok=True, detail="answers" if answers else "does not answer from here", address=url)


def _check_database(settings: Settings, engine: Engine) -> Iterator[Finding]:
    address = shown_address(settings.require_database())
    try:
        major = _postgres_major(engine)
    except (DBAPIError, TaskserverError) as error:
        cause = (error.__cause__ or error) if isinstance(error, Unavailable) else error
        cure = "see that PostgreSQL runs there and that TASKSERVER_DATABASE_URL is right"
        detail = f"does not answer: {_first_line(cause)}"
        yield Finding("database", ok=False, detail=detail, cure=cure, address=address)
        return
    is_new = major >= OLDEST_POSTGRES
    upgrade = None if is_new else f"use PostgreSQL {OLDEST_POSTGRES} or newer"
    yield Finding("database", ok=is_new, detail=f"PostgreSQL {major}", cure=upgrade, address=address)
    migrations = _check_migrations(engine)
    yield migrations
    if migrations.ok:
        yield from _guarded("workers", lambda: _check_workers(engine, settings))
        yield from _guarded("kinds", lambda: _check_kinds(engine, settings))


def _postgres_major(engine: Engine) -> int:
    with one_statement(engine) as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        return int(driver.info.server_version) // 10_000


def _check_migrations(engine: Engine) -> Finding:
    revision, needed = database_revision(engine), head_revision()
    if revision == needed:
        return Finding("migrations", ok=True, detail=f"at {revision}")
    cure = "run `taskserver migrate`"
    return Finding("migrations", ok=False, detail=f"at {revision or 'none'}, not {needed}", cure=cure)


def _guarded(name: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield check()
    except Unavailable as error:
        yield Finding(name, ok=False, detail=error.message, cure="run the check again")


def _check_workers(engine: Engine, settings: Settings) -> Finding:
    workers = known_workers(engine, silence_seconds=settings.dead_after_seconds).contents
    alive = [one for one in workers if one.alive]
    if not alive:
        cure = "start one with `taskserver worker`"
        return Finding("workers", ok=False, detail="none alive", cure=cure)
    queues = ", ".join(sorted({queue for one in alive for queue in one.queues}))
    slots = sum(one.concurrency for one in alive)
    return Finding("workers", ok=True, detail=f"{len(alive)} alive, {slots} slots, queues: {queues}")


def _check_kinds(engine: Engine, settings: Settings) -> Finding:
    names = [one.name for one in registered_kinds(engine).contents]
    if not names:
        cure = "start a worker: it registers the kinds of its handlers"
        return Finding("kinds", ok=False, detail="none registered", cure=cure)
    detail = f"{len(names)}: {', '.join(names)}"
    unserved = _unserved(names, engine, settings)
    if not unserved:
        return Finding("kinds", ok=True, detail=detail)
    # No failure: what nobody offers any more stays registered for the tasks that had it.
    cure = "if they are still wanted, start a worker with their modules: `taskserver worker --handlers MODULE`"
    return Finding("kinds", ok=True, detail=f"{detail}; no live worker has {', '.join(unserved)}", cure=cure)


def _unserved(names: list[str], engine: Engine, settings: Settings) -> list[str]:
    """Return the kinds that no live worker has; none where a worker has not said, or none lives, which is told itself."""
    workers = known_workers(engine, silence_seconds=settings.dead_after_seconds).contents
    offers = [one.kinds for one in workers if one.alive]
    if not offers or None in offers:
        return []
    offered = {kind for kinds in offers for kind in kinds or ()}
    return [name for name in names if name not in offered]


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().partition("\n")[0]
