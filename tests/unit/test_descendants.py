"""Ending a process together with what it has started."""

import subprocess
import sys

import psutil
import pytest

from tests.eventually import eventually
from workers.descendants import descendants, kill_with_descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who started whom")
_PARENT = "import subprocess; subprocess.run(['sh', '-c', 'sleep 60; true'])"


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_what_a_process_has_started_ends_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT]) as parent:
        eventually(lambda: len(descendants(parent.pid)) == 2, what="shell and sleep run")
        family = [psutil.Process(pid) for pid in descendants(parent.pid)]

        kill_with_descendants(parent.pid)

        assert parent.wait(10) != 0
        eventually(lambda: not any(_lives(one) for one in family), what="all have ended")


def test_a_process_that_has_ended_already_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()

    kill_with_descendants(process.pid)

    assert descendants(process.pid) == []
