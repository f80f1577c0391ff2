"""`make bench`: taskserver beside plain Celery, on the same Redis with the same concurrency, in interleaved rounds.

Prints for each case the median seconds of both and the median of the rounds' ratios (plain over ours: above 1 is faster).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.bench import cases
from tests.bench.stack import Running, running_stack

_TIMEOUT = 120.0
FLOORS = {"chain40": 1.0, "fan1000": 10.0, "dia100": 1.5}


def main() -> int:
    """Run the rounds and print the table; 1 when a floor was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--cases", nargs="*", default=list(cases.CASES), choices=list(cases.CASES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, running_stack(Path(directory), options.concurrency) as running:
        os.environ["TASKSERVER_REDIS_URL"] = running.redis_url
        with _plain_worker(options.concurrency, Path(directory)):
            return _report(_measure(running, options.rounds, options.cases))


def _measure(running: Running, rounds: int, names: list[str]) -> dict[str, list[tuple[float, float]]]:
    from tests.bench import plain  # reads the broker's address from the environment when it is imported

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    headers = {"Authorization": f"Bearer {running.token}"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=_TIMEOUT) as client:
        for number in range(rounds + 1):
            for name in names:
                ours = _seconds(lambda name=name: cases.run(client, name, timeout=_TIMEOUT))
                theirs = _seconds(lambda name=name: plain.run(name, timeout=_TIMEOUT))
                if number:  # the first round warms both up
                    times[name].append((ours, theirs))
                    print(f"round {number} {name:8} ours {ours:7.3f} s  plain {theirs:7.3f} s", file=sys.stderr)
    return times


def _report(times: dict[str, list[tuple[float, float]]]) -> int:
    print(f"{'case':8} {'subtasks':>8} {'ours s':>8} {'plain s':>8} {'ratio':>7} {'floor':>6}")
    missed = 0
    for name, pairs in times.items():
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(other / own for own, other in pairs)
        missed += ratio < FLOORS[name]
        print(f"{name:8} {cases.SUBTASKS[name]:8} {ours:8.3f} {theirs:8.3f} {ratio:7.2f} {FLOORS[name]:6.1f}")
    return 1 if missed else 0


def _seconds(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@contextmanager
def _plain_worker(concurrency: int, directory: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "tests.bench.plain", "worker", "--concurrency", str(concurrency)]
    command += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    with (directory / "plain.log").open("wb") as log:
        worker = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            worker.terminate()
            worker.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
