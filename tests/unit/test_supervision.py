import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskserver.supervision.identity import PidRecord, ProcessIdentity
from taskserver.supervision.part import Backoff, Part, PartDidNotStart, PartRefused
from taskserver.supervision.supervisor import Supervisor, interrupted_by_signals

QUICK = Backoff(first_seconds=0.01, cap_seconds=0.05)
UNTIL_ASKED = 'trap "echo {name} >> {order}; exit 0" TERM; echo up >> {log}; while :; do sleep 0.02; done'
STUBBORN = 'trap "" TERM; sleep 60 & echo $! > {child}; while :; do sleep 0.02; done'
Leave = Callable[[Part], "subprocess.Popen[bytes]"]
Foreground = Callable[[str], "subprocess.Popen[str]"]


def part(directory: Path, script: str, name: str = "part", **options: Any) -> Part:
    return Part(
        name=name,
        argv=("sh", "-c", script),
        log_file=directory / f"{name}.log",
        **{"backoff": QUICK, "grace_seconds": 5.0, **options},
    )


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.005)


def has_ended(process: psutil.Process) -> bool:
    return ProcessIdentity.of(process.pid) is None


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "run") as opened:
        yield opened


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[Leave]:
    """What a killed supervisor leaves: a running part and its pid file."""
    children = []

    def leave(left: Part) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(left.argv, start_new_session=True)
        children.append(child)
        identity = ProcessIdentity.of(child.pid)
        assert identity is not None
        (tmp_path / "run").mkdir(exist_ok=True)
        PidRecord(identity, left.fingerprint).write(tmp_path / "run" / f"{left.name}.pid")
        return child

    yield leave
    for child in children:
        child.kill()
        child.wait()


def test_a_part_that_dies_is_started_again(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.start(part(tmp_path, "sleep 60"))
    first = supervisor.pid("part")

    os.kill(first, signal.SIGKILL)

    eventually(lambda: supervisor.pid("part") not in {None, first})
    assert not psutil.pid_exists(first)


def test_what_a_killed_part_leaves_in_its_group_is_killed_before_its_successor_starts(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    supervisor.start(
        part(tmp_path, f"sleep 60 & echo $! >> {tmp_path}/children; wait", is_ready=(tmp_path / "children").exists)
    )
    eventually((tmp_path / "children").read_text)
    child = psutil.Process(int((tmp_path / "children").read_text()))

    os.kill(supervisor.pid("part"), signal.SIGKILL)

    eventually(lambda: has_ended(child))


def test_parts_are_stopped_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    with Supervisor(tmp_path / "run") as supervisor:
        for name in ("first", "second", "third"):
            log = tmp_path / f"{name}.up"
            script = UNTIL_ASKED.format(name=name, order=order, log=log)
            supervisor.start(part(tmp_path, script, name, is_ready=log.exists))

    assert order.read_text().split() == ["third", "second", "first"]
    assert not list((tmp_path / "run").iterdir())


def test_a_part_that_does_not_end_when_asked_is_killed_with_its_group(tmp_path: Path) -> None:
    child = tmp_path / "child"
    with Supervisor(tmp_path / "run") as supervisor:
        stubborn = part(tmp_path, STUBBORN.format(child=child), is_ready=child.exists, grace_seconds=0.1)
        supervisor.start(stubborn)
        eventually(child.read_text)
        left = psutil.Process(int(child.read_text()))
        main = supervisor.pid("part")

    assert not psutil.pid_exists(main)
    eventually(lambda: has_ended(left))


def test_a_part_that_cannot_stay_up_is_reported_with_the_end_of_its_log(tmp_path: Path, supervisor: Supervisor) -> None:
    with pytest.raises(PartDidNotStart, match=r"(?s)part did not start \(ended with exit code 3\).*no such luck"):
        supervisor.start(part(tmp_path, "echo no such luck; exit 3", is_ready=lambda: False))


def test_a_part_whose_program_is_missing_is_reported_with_its_name(tmp_path: Path, supervisor: Supervisor) -> None:
    missing = Part(
        name="part", argv=("/no/such/program",), log_file=tmp_path / "log", backoff=QUICK, is_ready=lambda: False
    )

    with pytest.raises(PartDidNotStart, match="/no/such/program"):
        supervisor.start(missing)


def test_a_part_that_refuses_its_first_start_is_not_started_again(tmp_path: Path, supervisor: Supervisor) -> None:
    script = f"echo x >> {tmp_path}/starts; echo noise; echo 'error: the module is wrong'; exit {os.EX_CONFIG}"

    with pytest.raises(PartRefused, match=r"^the module is wrong$"):
        supervisor.start(part(tmp_path, script, is_ready=lambda: False))
    with pytest.raises(PartRefused, match=r"^the module is wrong$"):  # also where another part is waited for
        supervisor.start(part(tmp_path, "sleep 60", "second", is_ready=lambda: False))

    assert (tmp_path / "starts").read_text() == "x\n"


def test_a_part_that_was_ready_is_started_again_also_when_it_refuses_later(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    script = f"echo x >> {tmp_path}/starts; while [ ! -e {tmp_path}/end ]; do sleep 0.01; done; exit {os.EX_CONFIG}"
    supervisor.start(part(tmp_path, script, is_ready=(tmp_path / "starts").exists))

    (tmp_path / "end").touch()

    eventually(lambda: len((tmp_path / "starts").read_text()) >= 6)


def test_a_part_that_never_answers_is_reported_after_its_time(tmp_path: Path, supervisor: Supervisor) -> None:
    with pytest.raises(PartDidNotStart, match=r"not ready after 0\.2 s"):
        supervisor.start(part(tmp_path, "sleep 60", is_ready=lambda: False, ready_seconds=0.2))


def test_an_error_in_a_probe_stops_all_parts_and_reaches_the_caller(tmp_path: Path) -> None:
    def broken() -> bool:
        raise ZeroDivisionError

    supervisor = Supervisor(tmp_path / "run").__enter__()
    supervisor.start(part(tmp_path, "sleep 60", "good"))
    supervisor.add(part(tmp_path, "sleep 60", "bad", is_ready=broken))
    supervisor.wait()

    with pytest.raises(ZeroDivisionError):
        supervisor.stop()

    assert not list((tmp_path / "run").iterdir())


def test_an_orphan_that_is_adoptable_and_answers_is_taken_over(
    tmp_path: Path, supervisor: Supervisor, orphan: Leave
) -> None:
    adoptable = part(tmp_path, "sleep 60", adoptable=True)
    left = orphan(adoptable)

    supervisor.start(adoptable)

    assert supervisor.pid("part") == left.pid


def test_a_part_that_was_taken_over_is_started_again_when_it_dies(
    tmp_path: Path, supervisor: Supervisor, orphan: Leave
) -> None:
    adoptable = part(tmp_path, "sleep 60", adoptable=True)
    left = orphan(adoptable)
    supervisor.start(adoptable)

    left.kill()

    eventually(lambda: supervisor.pid("part") not in {None, left.pid})


@pytest.mark.parametrize(
    "changed",
    [{"adoptable": False}, {"adoptable": True, "script": "sleep 61"}, {"adoptable": True, "is_ready": lambda: False}],
    ids=["not adoptable", "other command", "does not answer"],
)
def test_any_other_orphan_is_ended_and_replaced(
    tmp_path: Path, supervisor: Supervisor, orphan: Leave, changed: dict[str, Any]
) -> None:
    left = orphan(part(tmp_path, "sleep 60"))

    supervisor.add(part(tmp_path, **{"script": "sleep 60", **changed}))

    assert left.wait(timeout=10) == -signal.SIGTERM
    eventually(lambda: supervisor.pid("part") not in {None, left.pid})


def test_orphans_that_nobody_will_start_again_are_ended(tmp_path: Path, supervisor: Supervisor, orphan: Leave) -> None:
    kept, other = orphan(part(tmp_path, "sleep 60", "kept")), orphan(part(tmp_path, "sleep 60", "other"))

    supervisor.end_orphans(keep={"kept"})

    assert other.wait(timeout=10) == -signal.SIGTERM
    assert kept.poll() is None
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["kept.pid"]


def test_a_stranger_that_has_the_pid_of_a_former_part_is_left_alone(tmp_path: Path, supervisor: Supervisor) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    for name in ("part", "other"):
        PidRecord(ProcessIdentity(stranger.pid, "an earlier moment"), "").write(tmp_path / "run" / f"{name}.pid")

    supervisor.start(part(tmp_path, "sleep 60"))
    supervisor.end_orphans(keep={"part"})

    assert stranger.poll() is None
    assert supervisor.pid("part") != stranger.pid
    stranger.kill()
    stranger.wait()


def test_a_part_whose_pid_cannot_be_noted_does_not_run_on(tmp_path: Path, supervisor: Supervisor) -> None:
    (tmp_path / "run" / "part.new").mkdir()  # where the new pid file is written first
    with pytest.raises(PartDidNotStart, match="could not be started"):
        supervisor.start(part(tmp_path, f"echo $$ >> {tmp_path}/pids; exec sleep 60", is_ready=lambda: False))

    (tmp_path / "run" / "part.new").rmdir()
    noted = tmp_path / "pids"
    eventually(lambda: noted.exists() and str(supervisor.pid("part")) in noted.read_text().split())

    pids = [int(pid) for pid in noted.read_text().split()]
    assert [pid for pid in pids if psutil.pid_exists(pid)] in ([], [supervisor.pid("part")])


def test_a_long_log_is_put_aside_when_its_part_starts(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskserver.supervision.run.LOG_LIMIT_BYTES", 10)
    (tmp_path / "part.log").write_text("longer than the limit")

    supervisor.start(part(tmp_path, "echo fresh; sleep 60"))

    assert (tmp_path / "part.log.1").read_text() == "longer than the limit"
    eventually(lambda: (tmp_path / "part.log").read_text() == "fresh\n")


def test_the_wait_doubles_up_to_the_cap_and_jitter_takes_at_most_half_of_it() -> None:
    backoff = Backoff(first_seconds=1, cap_seconds=10)

    assert [backoff.delay(deaths, chance=1.0) for deaths in (1, 2, 3, 4, 5, 500)] == [1, 2, 4, 8, 10, 10]
    assert [backoff.delay(deaths, chance=0.0) for deaths in (1, 5)] == [0.5, 5]
    assert all(0.5 <= backoff.delay(1) <= 1 for _ in range(100))


FOREGROUND = """
import sys
from pathlib import Path
from taskserver.supervision.part import Part
from taskserver.supervision.supervisor import Supervisor, interrupted_by_signals

directory = Path(sys.argv[1])
with interrupted_by_signals(), Supervisor(directory / "run") as supervisor:
    supervisor.start(Part(name="part", argv=("sh", "-c", sys.argv[2]), log_file=directory / "log",
                          is_ready=(directory / "child").exists, grace_seconds=60))
    print("ready", supervisor.pid("part"), flush=True)
    supervisor.wait()
print("stopped", flush=True)
"""


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[Foreground]:
    children = []

    def start(script: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", FOREGROUND, str(tmp_path), script.format(child=tmp_path / "child")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def ready_pid(child: "subprocess.Popen[str]") -> int:
    return next(int(line.split()[1]) for line in child.stdout if line.startswith("ready "))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_supervisor_and_its_parts(foreground: Foreground, number: signal.Signals) -> None:
    child = foreground("echo > {child}; exec sleep 60")
    pid = ready_pid(child)

    child.send_signal(number)

    assert child.wait(timeout=20) == 0
    assert child.stdout.read().splitlines()[-1] == "stopped"
    assert not psutil.pid_exists(pid)


def test_a_second_signal_cuts_the_grace_short(foreground: Foreground) -> None:
    child = foreground("trap 'echo asked; touch {child}.asked' TERM; echo > {child}; while :; do sleep 0.02; done")
    pid = ready_pid(child)
    asked = Path(psutil.Process(child.pid).cmdline()[3]) / "child.asked"

    child.send_signal(signal.SIGTERM)
    eventually(asked.exists)
    child.send_signal(signal.SIGTERM)

    assert child.wait(timeout=20) == 0
    assert not psutil.pid_exists(pid)


def test_a_second_signal_does_not_break_off_the_cleaning_up() -> None:
    cleaned = []

    with interrupted_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append("up")

    assert cleaned == ["up"]
