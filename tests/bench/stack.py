"""A running `taskserver dev` for measurements."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_READY = "taskserver ready: "


@dataclass(frozen=True, slots=True)
class Running:
    """Where it is reached."""

    url: str
    token: str
    redis_url: str


@contextmanager
def running_stack(directory: Path, concurrency: int) -> Iterator[Running]:
    """Start the embedded stack in the directory; stop it at the end."""
    data = directory / "data"
    command = [sys.executable, "-m", "taskserver", "dev", "--port", "0", "--no-flower", "--data", str(data)]
    command += ["--concurrency", str(concurrency)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TASKSERVER_")}
    with (directory / "dev.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
        try:
            yield Running(_url(process), (data / "admin-token").read_text().strip(), _redis_url(data))
        finally:
            process.terminate()
            process.wait(timeout=60)


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(_READY):
            return line.removeprefix(_READY).strip()
    raise RuntimeError(f"taskserver dev ended with {process.wait()} before it was ready")


def _redis_url(data: Path) -> str:
    sockets = list(data.rglob("redis.sock"))
    return f"redis+socket://{sockets[0].resolve()}"
