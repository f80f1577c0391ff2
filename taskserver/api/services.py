"""What routes work with, made once by the composition root and found through the request; there are no globals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from redis import Redis
from sqlalchemy import Engine

from schema.settings import Settings
from taskserver.api.submission_gate import SubmissionGate
from taskserver.api.waiting import Watch


@dataclass(frozen=True, slots=True)
class Services:
    """The settings and the connections of one server process; those of `health_engine` are not used up by requests."""

    settings: Settings
    engine: Engine
    health_engine: Engine
    redis: Redis
    watch: Watch
    gate: SubmissionGate
    after_submission: Callable[[], None]


def _services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Served = Annotated[Services, Depends(_services_of)]
