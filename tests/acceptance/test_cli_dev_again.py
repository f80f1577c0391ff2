"""`taskserver dev` in a directory that another one uses, or left behind when it was killed."""

import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.conftest import Dev, run_taskserver, running_dev


def free_ports(count: int) -> list[str]:
    with ExitStack() as held:
        bound = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(one.getsockname()[1]) for one in bound]


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.chaos
def test_a_dev_that_was_killed_starts_again_on_its_own_ports(tmp_path: Path) -> None:
    port, flower_port = free_ports(2)
    options = ("--port", port, "--flower-port", flower_port, "--concurrency", "1")

    with running_dev(tmp_path, *options) as first:
        first.process.kill()
        first.process.wait()
        assert httpx.get(f"{first.url}/healthz").is_success  # its server lives on, and holds the port
    with running_dev(tmp_path, *options) as second:
        done = second.run("submit", "--kind", "builtin.noop", "--wait")

    assert second.url == first.url == f"http://127.0.0.1:{port}"
    assert done.returncode == 0, done.stderr


@pytest.mark.chaos
def test_a_killed_dev_that_cannot_start_again_leaves_nothing_running(dev: Dev, tmp_path: Path) -> None:
    with running_dev(tmp_path, "--concurrency", "1") as killed:
        pids = [killed.pid(part) for part in ("postgres", "redis", "server", "worker")]
        killed.process.kill()
        killed.process.wait()

    done = run_taskserver("dev", "--port", dev.url.rpartition(":")[2], "--no-flower", cwd=tmp_path)

    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{dev.url.rpartition(':')[2]}" in done.stderr
    assert None not in pids
    assert not any(pid and is_alive(pid) for pid in pids)


def test_a_second_dev_in_the_directory_is_told_of_the_first_and_not_of_its_port(dev: Dev) -> None:
    done = dev.run("dev", "--port", dev.url.rpartition(":")[2], "--no-flower")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {dev.data} is in use by process {dev.process.pid}; stop that one, or choose another directory with --data"
    )


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_directory_that_cannot_be_one_is_told_with_what_to_do(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()

    done = run_taskserver("dev", "--port", "0", "--no-flower", "--data", below, cwd=tmp_path)

    assert done.returncode == 2
    assert f"{tmp_path / below} cannot hold the data" in done.stderr
    assert "--data" in done.stderr
