"""A running `taskserver dev`, started once for all acceptance tests, and ways to run the commands against it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from taskserver.client import TaskServer

START_SECONDS = 60
COMMAND_SECONDS = 60


def environment(**given: str) -> dict[str, str]:
    """Return our environment without settings of the product, and with those that are given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKSERVER_")}
    return {**kept, **given}


def run_taskserver(
    *arguments: str, cwd: Path, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; one that takes too long is ended in order, so that it leaves nothing running."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "taskserver", *arguments],
        cwd=cwd,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    too_late = threading.Timer(COMMAND_SECONDS, process.terminate)
    too_late.start()
    try:
        out, err = process.communicate(stdin)
    finally:
        too_late.cancel()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@dataclass(frozen=True)
class Dev:
    """A running `taskserver dev`; commands run in the directory that holds its `.taskserver`."""

    process: "subprocess.Popen[str]"
    url: str
    directory: Path

    @property
    def data(self) -> Path:
        return self.directory / ".taskserver"

    @property
    def token(self) -> str:
        return (self.data / "admin-token").read_text().strip()

    @property
    def environment(self) -> dict[str, str]:
        """The settings of its servers, for parts of a test's own."""
        lines = (self.data / "dev.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def client(self) -> TaskServer:
        return TaskServer(self.url, self.token)

    def run(self, *arguments: str, stdin: str | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
        return run_taskserver(*arguments, cwd=self.directory, stdin=stdin, env=env)

    def run_json(self, *arguments: str, stdin: str | None = None) -> Any:
        """Run a command that must work, and return what it printed as JSON."""
        done = self.run(*arguments, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pid(self, part: str) -> int | None:
        """Return the pid of a part; None while it has none."""
        try:
            return int((self.data / "run" / f"{part}.pid").read_text().split()[0])
        except FileNotFoundError:
            return None

    def stop(self) -> str:
        """Ask it to end, wait, and return what else it has printed."""
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=START_SECONDS)
        return rest


@contextmanager
def running_dev(directory: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Dev]:
    """Run `taskserver dev` on a free port in the directory for the block."""
    process = start_dev(directory, *options, env=env)
    try:
        ready = first_line(process)
        assert ready.startswith("taskserver ready: http://"), ready or log_of(directory)
        yield Dev(process, ready.removeprefix("taskserver ready: ").strip(), directory)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=START_SECONDS)


def start_dev(directory: Path, *options: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    flower = () if "--flower-port" in options else ("--no-flower",)
    with (directory / "dev.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "taskserver", "dev", "--port", "0", *flower, *options],
            cwd=directory,
            env=environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def first_line(process: "subprocess.Popen[str]") -> str:
    """Return the first line that it prints; empty when it ended, or had to be ended, without one."""
    assert process.stdout is not None
    too_late = threading.Timer(START_SECONDS, process.terminate)
    too_late.start()
    try:
        return process.stdout.readline()
    finally:
        too_late.cancel()


def log_of(directory: Path) -> str:
    return (directory / "dev.log").read_text()


def submission(*subtasks: Mapping[str, object], **members: object) -> str:
    """Return a submission as JSON text."""
    return json.dumps({"subtasks": list(subtasks), **members})


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """The `taskserver dev` that tests share; what a test kills in it must come back before the test ends."""
    with running_dev(tmp_path_factory.mktemp("dev"), "--concurrency", "2") as running:
        yield running
