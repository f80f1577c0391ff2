"""Keeps child processes alive, and ends them when it ends.

One thread starts and watches all parts; the main thread only adds parts and waits, so a KeyboardInterrupt can never fall
between the start of a child and the note of its pid. Children lead their own process groups. They survive a `kill -9` of the
supervisor, but not its successor: the next one with the same run directory takes them over or ends them by pid file.
It knows nothing of what the parts are; `taskserver dev` and `taskserver worker` both use it.
"""

import contextlib
import signal
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

from schema.refusal import refusal_in
from taskserver.supervision.ending import end_process
from taskserver.supervision.identity import PidRecord
from taskserver.supervision.part import Part, PartDidNotStart, PartRefused
from taskserver.supervision.run import PartRun

TICK_SECONDS = 0.05
STARTING_TICK_SECONDS = 0.02  # while somebody waits for a part to become ready
DEATHS_BEFORE_GIVING_UP = 5  # of a part that was never ready; the last try comes about 1.5 s after the first
LOG_TAIL_LINES = 8


class Supervisor:
    """A context manager whose parts live as long as its block."""

    def __init__(self, run_directory: Path) -> None:
        self._run_directory = run_directory
        self._runs: dict[str, PartRun] = {}
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._ended = threading.Event()  # waited for instead of join(), which a KeyboardInterrupt breaks (bpo-45274)
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._run_directory.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, part: Part) -> None:
        """Keep this part alive from now on, without waiting for it."""
        if part.name in self._runs:
            raise ValueError(f"there is already a part named {part.name}")
        self._runs = {**self._runs, part.name: PartRun(part, self._run_directory / f"{part.name}.pid")}

    def start(self, part: Part) -> None:
        """Add a part and wait until it is ready.

        Raises:
            PartDidNotStart: It died again and again, or did not become ready in its time.
            PartRefused: It, or another part, said at its first start that what it was told is wrong.
        """
        self.add(part)
        self.wait_ready(part.name)

    def wait_ready(self, name: str) -> None:
        """Wait until the part is ready, for the first time or again.

        Raises:
            PartDidNotStart: It died again and again, or did not become ready in its time.
            PartRefused: It, or another part, said at its first start that what it was told is wrong.
        """
        run = self._runs[name]
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    run.is_ready
                    or run.deaths >= DEATHS_BEFORE_GIVING_UP
                    or self._ended.is_set()
                    or any(one.has_refused for one in self._runs.values())
                ),
                timeout=run.part.ready_seconds,
            )
        for one in self._runs.values():
            if one.has_refused:
                raise PartRefused(_why_refused(one), target=one.part.name)
        if not run.is_ready:
            raise PartDidNotStart(_why_not_ready(run), target=name)

    def pid(self, name: str) -> int | None:
        """Return the pid of the part's process; None while it has none."""
        identity = self._runs[name].identity
        return None if identity is None else identity.pid

    def is_ready(self, name: str) -> bool:
        """Tell whether the part runs and has answered since its last start."""
        return self._runs[name].is_ready

    def end_orphans(self, keep: Collection[str] = ()) -> None:
        """End what a killed supervisor left behind, except the parts named in `keep`, which the next start looks after."""
        for pid_file in sorted(self._run_directory.glob("*.pid")):
            if pid_file.stem in keep:
                continue
            orphan = PidRecord.read(pid_file)
            if orphan is not None:
                end_process(orphan.identity)
            pid_file.unlink()

    def wait(self) -> None:
        """Block until a signal raises KeyboardInterrupt here (see `interrupted_by_signals`)."""
        self._ended.wait()

    def stop(self) -> None:
        """Stop all parts, the last one first. SIGINT or SIGTERM in the meantime cuts every grace short."""
        self._stopping.set()
        with _signals_set(self._hurry):
            self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        try:
            try:
                while not self._stopping.is_set():
                    self._tick()
            finally:
                self._stop_parts()
        except BaseException as failure:  # noqa: BLE001 (raised again where the supervisor is stopped)
            self._failure = failure
        finally:
            self._ended.set()
            self._tell()

    def _tick(self) -> None:
        runs = tuple(self._runs.values())
        for run in runs:
            run.tick()
        self._tell()
        all_ready = all(run.is_ready for run in runs)
        self._stopping.wait(TICK_SECONDS if all_ready else STARTING_TICK_SECONDS)

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _stop_parts(self) -> None:
        with contextlib.ExitStack() as last_first:  # each is stopped, whatever happens at another
            for run in self._runs.values():
                last_first.callback(run.stop, self._hurry)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Run a block in the foreground: SIGINT, SIGTERM and SIGHUP end it as a KeyboardInterrupt that stops here.

    Only the first one does: another would break off the cleaning up on the way out, and leave parts running.
    Goes around the block that holds the supervisor, in the main thread. A SIGHUP that was ignored (nohup) stays ignored.
    """
    interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_set(event: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda _number, _frame: event.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _why_refused(run: PartRun) -> str:
    return refusal_in(run.part.log_file.read_text(errors="replace")) or _why_not_ready(run)


def _why_not_ready(run: PartRun) -> str:
    how = run.last_end or f"not ready after {run.part.ready_seconds:g} s"
    log_file = run.part.log_file
    tail = log_file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if log_file.exists() else []
    return "\n".join([f"{run.part.name} did not start ({how}); its log {log_file} ends with:", *tail])
