"""The files by which `taskserver dev` is found: its address, the administrator's token, and the servers it uses.

All of them are private and written at once. Those that tell of the running stack are removed when it ends; after a `kill -9`
they are stale, which whoever follows them notices because nobody answers.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from schema.settings import Settings


@dataclass(frozen=True, slots=True)
class DevDirectory:
    """The directory given by `--data`."""

    root: Path

    @property
    def port_file(self) -> Path:
        """The port that the server took."""
        return self.root / "run" / "server.port"

    @property
    def token_file(self) -> Path:
        """The administrator's token."""
        return self.root / "admin-token"

    @property
    def url_file(self) -> Path:
        """The address of the running server."""
        return self.root / "url"

    @property
    def environment_file(self) -> Path:
        """The settings of the running stack, in the form of an `.env` file."""
        return self.root / "dev.env"

    @property
    def url(self) -> str | None:
        """The address of the server that runs here, or did when it was killed."""
        return _content(self.url_file)

    @property
    def token(self) -> str | None:
        """The administrator's token, if one was made."""
        return _content(self.token_file)

    @property
    def environment(self) -> dict[str, str]:
        """The settings of the stack that runs here; empty where none does."""
        lines = (_content(self.environment_file) or "").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def secret_key(self) -> str:
        """Return the key that tokens are made with; made once."""
        path = self.root / "secret-key"
        present = _content(path)
        if present is None:
            present = secrets.token_urlsafe(32)
            write_private(path, present)
        return present

    def write_token(self, token: str) -> None:
        """Keep the administrator's token for the client commands."""
        write_private(self.token_file, token)

    @contextmanager
    def announced(self, url: str, environment: Mapping[str, str]) -> Iterator[None]:
        """Let the client commands find the stack for the length of the block."""
        write_private(self.environment_file, "\n".join(f"{name}={value}" for name, value in environment.items()))
        write_private(self.url_file, url)
        try:
            yield
        finally:
            self.url_file.unlink(missing_ok=True)
            self.environment_file.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replace the file at once by one that only its owner reads."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _content(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None


def settings_of_dev(settings: Settings, directory: Path | None) -> Settings:
    """Return the settings that lead to the servers of a running `dev`.

    The settings as they are where they name a server themselves and no directory is given, or where no dev runs.
    """
    if directory is None and (settings.database_url is not None or settings.redis_url is not None):
        return settings
    environment = DevDirectory(directory or settings.data).environment
    secret = {
        name: SecretStr(environment[f"TASKSERVER_{name.upper()}"])
        for name in ("database_url", "redis_url", "secret_key")
        if f"TASKSERVER_{name.upper()}" in environment
    }
    handlers = tuple(word for word in environment.get("TASKSERVER_HANDLERS", "").split(",") if word)
    flower_url = environment.get("TASKSERVER_FLOWER_URL", settings.flower_url)
    return settings.model_copy(update={**secret, "handlers": handlers or settings.handlers, "flower_url": flower_url})
