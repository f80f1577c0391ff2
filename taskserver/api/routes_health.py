"""How the server is: for whoever starts it, balances it, or waits for it. The only calls without a credential."""

from fastapi import APIRouter, Request, Response
from redis import RedisError

from schema.errors import SubError, TaskserverError, Unavailable
from schema.migration import head_revision
from taskserver.api.documentation import UNAVAILABLE
from taskserver.api.envelope import Envelope, answer
from taskserver.api.services import Served
from taskserver.queries.health import database_revision
from taskserver.views.health import Live, Ready

router = APIRouter(tags=["health"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Envelope[Live], summary="Tell whether the process lives")
async def get_healthz(request: Request) -> Response:
    """Answer without asking anything else, and without a thread, so that it works however busy the server is."""
    return answer(request, Live())


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz", response_model=Envelope[Ready], responses=UNAVAILABLE, summary="Tell whether the server can work"
)
def get_readyz(request: Request, served: Served) -> Response:
    """Ask the database, its migrations and the broker; 503 names each that does not answer."""
    problems: list[SubError] = []
    revision, needed = None, head_revision()
    try:
        revision = database_revision(served.health_engine)
    except TaskserverError as error:
        problems.append(SubError("database", error.message))
    else:
        if revision != needed:
            problems.append(
                SubError("migrations", f"the database is at {revision}, not {needed}: run taskserver migrate")
            )
    try:
        served.redis.ping()
    except RedisError:
        problems.append(SubError("broker", "Redis does not answer: look whether it runs at TASKSERVER_REDIS_URL"))
    if problems:
        summary = "; ".join(f"{one.field}: {one.message}" for one in problems)
        raise Unavailable(f"not ready: {summary}", sub_errors=tuple(problems))
    return answer(request, Ready(migrations=needed))
