import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskserver.supervision.identity import PidRecord, ProcessIdentity, command_of


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait()


def identity_of(pid: int) -> ProcessIdentity:
    identity = ProcessIdentity.of(pid)
    assert identity is not None
    return identity


def test_a_running_process_is_alive_and_has_one_identity(sleeper: "subprocess.Popen[bytes]") -> None:
    identity = identity_of(sleeper.pid)

    assert identity.is_alive()
    assert identity == ProcessIdentity.of(sleeper.pid)
    assert identity.started != identity_of(os.getpid()).started
    assert command_of(sleeper.pid).split() == ["sleep", "60"]


def test_a_zombie_counts_as_dead(sleeper: "subprocess.Popen[bytes]") -> None:
    identity = identity_of(sleeper.pid)

    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

    assert not identity.is_alive()


def test_a_reaped_process_is_nobody(sleeper: "subprocess.Popen[bytes]") -> None:
    sleeper.kill()
    sleeper.wait()

    assert ProcessIdentity.of(sleeper.pid) is None
    assert command_of(sleeper.pid) == ""


def test_a_recycled_pid_is_another_process_and_is_not_signalled(sleeper: "subprocess.Popen[bytes]") -> None:
    former = ProcessIdentity(sleeper.pid, "an earlier moment")

    former.signal(9)

    assert not former.is_alive()
    assert sleeper.poll() is None
    assert identity_of(sleeper.pid).is_alive()


def test_a_pid_file_is_read_back_while_its_process_lives(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    record = PidRecord(identity_of(sleeper.pid), "fingerprint")

    record.write(tmp_path / "part.pid")

    assert PidRecord.read(tmp_path / "part.pid") == record
    assert int((tmp_path / "part.pid").read_text().splitlines()[0]) == sleeper.pid


@pytest.mark.parametrize("content", ["", "17", "17\n\n", "x\ny\nz\n", "-1\na\nb\n"])
def test_a_pid_file_that_was_cut_short_names_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "part.pid").write_text(content)

    assert PidRecord.read(tmp_path / "part.pid") is None


def test_a_pid_file_with_a_recycled_pid_names_nobody(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    PidRecord(ProcessIdentity(sleeper.pid, "an earlier moment"), "fingerprint").write(tmp_path / "part.pid")

    assert PidRecord.read(tmp_path / "part.pid") is None
