"""Every setting of the product, read once from `TASKSERVER_*` and `.env`, validated at start, secrets never printed.

The only reader of the environment. Settings that another process must agree on (database, broker, secret key) are the
same for servers and workers.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schema.errors import InvalidArgument, SubError
from schema.limits import Limits
from schema.signing import signing_key

REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://")


class Settings(BaseSettings):
    """The settings, frozen. Durations are seconds, sizes bytes."""

    model_config = SettingsConfigDict(
        env_prefix="TASKSERVER_",
        env_file=".env",
        env_ignore_empty=True,  # an empty secret would open the server to everybody
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    secret_key: SecretStr | None = None
    admin_token: SecretStr | None = None
    handlers: Annotated[tuple[str, ...], NoDecode] = ()
    callback_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    callback_key: SecretStr | None = None
    url: str | None = None
    token: SecretStr | None = None
    flower_url: str | None = None
    flower_auth: SecretStr | None = None
    task_events: bool = True
    data: Path = Path(".taskserver")

    claim_batch_seconds: PositiveFloat = 0.05
    give_way_seconds: PositiveFloat = 0.1
    beat_seconds: PositiveFloat = 1.0
    dead_after_seconds: PositiveFloat = 5.0
    lost_after_seconds: PositiveFloat = 2.0
    cancel_grace_seconds: PositiveFloat = 10.0
    window_per_slot: PositiveInt = 4
    max_subtasks: PositiveInt = 100_000
    max_edges: PositiveInt = 1_000_000
    max_value_bytes: PositiveInt = 256 * 1024
    max_submission_bytes: PositiveInt = 16 * 1024 * 1024
    max_log_bytes: PositiveInt = 16 * 1024 * 1024
    max_streams: PositiveInt = Field(default=500, description="Streams of events that one server process keeps open.")
    max_streams_per_principal: PositiveInt = Field(default=250, description="Of those the most for one principal.")
    database_pool: PositiveInt = Field(
        default=20,
        description="Connections that the requests of one server process may use; its dispatcher has a few of its own.",
    )

    @property
    def limits(self) -> Limits:
        """The limits on submissions."""
        return Limits(
            submission_bytes=self.max_submission_bytes,
            subtasks=self.max_subtasks,
            edges=self.max_edges,
            stored_bytes=self.max_value_bytes,
        )

    @field_validator("handlers", "callback_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        # Not at the top: client commands, which cron calls, need no database and not the time to import one.
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(value.get_secret_value())
        except ArgumentError:
            raise ValueError("is not a URL; write postgresql://user:password@host/database") from None
        if url.get_backend_name() != "postgresql":
            raise ValueError("must begin with postgresql://")
        return SecretStr(url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False))

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(REDIS_SCHEMES):
            raise ValueError("must begin with " + ", ".join(REDIS_SCHEMES))
        return value

    @field_validator("flower_url")
    @classmethod
    def _flower(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("must be an address like https://host/flower")
        return value.rstrip("/")

    @field_validator("flower_auth")
    @classmethod
    def _login(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(value.get_secret_value().partition(":")):
            raise ValueError("must be a login like name:password")
        return value

    @classmethod
    def load(cls) -> Self:
        """Read and validate the settings.

        Raises:
            InvalidArgument: names each variable that is wrong.

        """
        try:
            return cls()
        except ValidationError as error:
            problems = tuple(
                SubError(
                    field="TASKSERVER_" + str(item["loc"][0]).upper(), message=item["msg"].removeprefix("Value error, ")
                )
                for item in error.errors(include_input=False, include_url=False)
            )
            summary = "; ".join(f"{problem.field} {problem.message}" for problem in problems)
            raise InvalidArgument(f"settings: {summary}", sub_errors=problems) from None

    def require_database(self) -> str:
        """Return the database URL, or say how to give one."""
        return _required(self.database_url, "TASKSERVER_DATABASE_URL", "postgresql://user:password@host/database")

    def require_redis(self) -> str:
        """Return the broker URL, or say how to give one."""
        return _required(self.redis_url, "TASKSERVER_REDIS_URL", "redis://host:6379/0")

    def require_flower_auth(self) -> str:
        """Return the login to Flower as name:password, or say how to give one."""
        return _required(self.flower_auth, "TASKSERVER_FLOWER_AUTH", "name:password")

    def require_secret_key(self) -> str:
        """Return the key that tokens are made with, or say how to give one."""
        return _required(self.secret_key, "TASKSERVER_SECRET_KEY", "any long random text, the same for all servers")

    def require_callback_key(self) -> str:
        """Return the key that callbacks are signed with, or say how to give one; by default it is made of the secret key."""
        if self.callback_key is None and self.secret_key is not None:
            return signing_key(self.secret_key.get_secret_value()).decode()
        return _required(self.callback_key, "TASKSERVER_CALLBACK_KEY", "any long random text, which receivers know too")


def secret_variables(names: Iterable[str]) -> set[str]:
    """Return those of the names that are variables with a secret of ours; upper and lower case are the same, as in reading."""
    secrets = {
        f"TASKSERVER_{name.upper()}"
        for name, field in Settings.model_fields.items()
        if SecretStr in get_args(field.annotation)
    }
    return {name for name in names if name.upper() in secrets}


def _required(value: SecretStr | None, name: str, example: str) -> str:
    if value is None:
        raise InvalidArgument(f"{name} is not set; set it ({example}), or run `taskserver dev`, which brings its own")
    return value.get_secret_value()
