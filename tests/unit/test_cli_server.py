import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskserver.server import AddressInUse, _ended_by_dead_threads, listening
from taskserver.supervision.part import Backoff
from taskserver.worker import WorkerKeeper, worker_command


def test_a_server_that_is_started_again_takes_the_same_port(tmp_path: Path) -> None:
    port_file = tmp_path / "port"

    with listening("127.0.0.1", 0, port_file) as first:
        port = first.getsockname()[1]
    with listening("127.0.0.1", 0, port_file) as second:
        again = second.getsockname()[1]

    assert port == again == int(port_file.read_text())


def test_a_taken_port_is_told_with_its_cure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(AddressInUse, match=f"127.0.0.1:{port}.*--port"), listening("127.0.0.1", port):
            pass


def test_a_host_of_another_machine_is_told_with_its_cure() -> None:
    with pytest.raises(AddressInUse, match=r"192\.0\.2\.1:0.*--host"), listening("192.0.2.1", 0):
        pass


@pytest.fixture
def asked_to_end() -> Iterator[threading.Event]:
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: asked.set())
    yield asked
    signal.signal(signal.SIGTERM, before)


def test_a_thread_that_dies_of_an_error_ends_the_server(asked_to_end: threading.Event) -> None:
    def die() -> None:
        raise RuntimeError("unexpected")

    with _ended_by_dead_threads() as deaths:
        thread = threading.Thread(target=die, name="dispatcher")
        thread.start()
        thread.join()
        is_asked = asked_to_end.wait(5)

    assert is_asked
    assert deaths == ["dispatcher"]


def test_a_worker_has_the_queues_that_are_given() -> None:
    command = worker_command(name="one", concurrency=3, queues=("a", "b"))

    assert command[command.index("--queues") + 1] == "a,b"
    assert command[command.index("--hostname") + 1] == "one@%h"
    assert command[command.index("--concurrency") + 1] == "3"
    assert "--queues" not in worker_command(name="one", concurrency=3)


def test_a_worker_that_ends_is_started_again_until_a_signal_asks_for_the_end(tmp_path: Path) -> None:
    # The third start asks the keeper for the end, and itself ends only when it is told.
    code = (
        "import os, signal, sys, pathlib\n"
        f"starts = pathlib.Path({str(tmp_path / 'starts')!r})\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "with starts.open('a') as file: file.write('x')\n"
        "if len(starts.read_text()) < 3: sys.exit(7)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "signal.sigwait({signal.SIGTERM})\n"
        "with starts.open('a') as file: file.write(' told')\n"
    )
    keeper = WorkerKeeper((sys.executable, "-c", code), os.environ, backoff=Backoff(first_seconds=0.01))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    try:
        keeper.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert (tmp_path / "starts").read_text() == "xxx told"
