"""Composes the application: routes, errors, the outermost layer, and what they share."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from redis import Redis
from sqlalchemy import Engine

from schema.documents.definition import Definition
from schema.documents.specification import Submission
from schema.settings import Settings
from taskserver.api import (
    routes_definitions,
    routes_diagnosis,
    routes_documentation,
    routes_events,
    routes_health,
    routes_instances,
    routes_principals,
    routes_registry,
    routes_status,
    routes_subtask_keys,
    routes_subtasks,
    routes_verbs,
)
from taskserver.api.authentication import Authenticator
from taskserver.api.dialect import Dialect, Dialects
from taskserver.api.documentation import describe
from taskserver.api.errors import add_error_handlers
from taskserver.api.open_streams import OpenStreams
from taskserver.api.routes_principals import NewPrincipal
from taskserver.api.routes_verbs import BulkRetry, Verb
from taskserver.api.services import Services
from taskserver.api.submission_gate import SubmissionGate
from taskserver.api.tracing import Tracing
from taskserver.api.waiting import Watch
from taskserver.dialects import cmdb, sops, tasks_table
from taskserver.principals import Tokens

_VERSION = "2"
_BODIES: tuple[type[BaseModel], ...] = (Submission, Definition, NewPrincipal, Verb, BulkRetry, *cmdb.BODIES)
# Before `/instances/{id}`, which would take `status` for an id.
_ROUTERS = (
    routes_health.router,
    routes_status.router,
    routes_events.router,
    routes_instances.router,
    routes_diagnosis.router,
    routes_subtask_keys.router,
    routes_subtasks.router,
    routes_verbs.router,
    routes_registry.router,
    routes_definitions.router,
    routes_principals.router,
    routes_documentation.router,
)
_DIALECTS: tuple[Dialect, ...] = (cmdb.DIALECT, sops.DIALECT, tasks_table.DIALECT)


class Api(FastAPI):
    """The application; describes itself with the bodies that routes read by themselves."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            self.openapi_schema = describe(self, _BODIES)
        return self.openapi_schema


def _nothing() -> None:
    pass


def create_app(
    settings: Settings,
    engine: Engine,
    redis: Redis,
    *,
    health_engine: Engine | None = None,
    after_submission: Callable[[], None] = _nothing,
) -> FastAPI:
    """Return the application. `app.state.services.watch.stop_waiting()` lets long polls answer before a shutdown.

    `after_submission` is called between a submission's commit and its answer, and may take a moment. `health_engine` is asked
    whether the database is well.
    """
    watch = Watch(engine)
    app = Api(
        title="taskserver",
        version=_VERSION,
        description="A durable task server on Celery: the OCP v2 task API, completed.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.services = Services(
        settings=settings,
        engine=engine,
        health_engine=health_engine or engine,
        redis=redis,
        watch=watch,
        gate=SubmissionGate(most=max(1, settings.database_pool // 2)),
        after_submission=after_submission,
    )
    app.state.open_streams = OpenStreams(most=settings.max_streams, most_each=settings.max_streams_per_principal)
    app.state.authenticator = Authenticator(engine, Tokens.of(settings))
    app.state.dialects = Dialects(_DIALECTS)
    add_error_handlers(app)
    app.add_middleware(Tracing, dialects=app.state.dialects)
    routers = (*_ROUTERS, *(one.router for one in _DIALECTS))
    for router in routers:
        app.include_router(router)
    app.state.calls = tuple(call for router in routers for call in router.routes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await app.state.services.watch.stop()
