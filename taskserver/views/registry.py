"""Kinds, workers and principals as they are answered."""

from typing import Any

from pydantic import Field

from taskserver.views.view import Id, Moment, View


class Kind(View):
    """A kind of work that workers have registered."""

    name: str
    description: str
    arguments_schema: dict[str, Any]
    result_schema: dict[str, Any] | None = None
    queue: str
    timeout: float | int | None = None
    max_attempts: int
    backoff_seconds: float
    isolated: bool
    has_rollback: bool
    prohibit_rollback: bool
    on_worker_lost: str
    code_version: str
    register_time: Moment


class Kinds(View):
    """All kinds, by name."""

    contents: list[Kind]


class Worker(View):
    """A worker and what it is doing."""

    id: Id
    name: str
    host: str
    pid: int
    queues: list[str]
    concurrency: int = Field(description="How many subtasks it can run at once.")
    alive: bool = Field(description="It was heard of lately and has not stopped.")
    processes: int = Field(description="Pool processes that live.")
    claims: int = Field(description="Claims that they hold.")
    started: Id = Field(description="How many subtasks it has begun.")
    code_version: str
    start_time: Moment
    beat_time: Moment
    stop_time: Moment | None = None
    kinds: list[str] | None = Field(
        default=None, description="The kinds it can run; absent where a worker of an earlier version has not said."
    )


class Workers(View):
    """Workers that live, or were heard of in the last hour."""

    contents: list[Worker]


class PrincipalView(View):
    """Who may use the API."""

    name: str
    role: str
    account: str
    serial: int = Field(description="Rotating the token raises it.")
    create_time: Moment


class PrincipalWithToken(PrincipalView):
    """A principal with its token, which is shown only here."""

    token: str


class Principals(View):
    """Principals in the caller's reach."""

    contents: list[PrincipalView]
