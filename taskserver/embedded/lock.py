"""One stack at a time for a directory: a lock that ends with its holder, however that one ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from schema.errors import Conflict, InvalidArgument
from taskserver.supervision.identity import ProcessIdentity

RELEASE_SECONDS = 2.0  # a killed holder is gone before the kernel has let go of its lock


class DirectoryInUse(Conflict):
    """Another stack runs on the same directory."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file for the block, with our pid in it; make its directory if need be. Child programs do not inherit it.

    Raises:
        DirectoryInUse: A living process holds it.
        InvalidArgument: There can be no such file.
    """
    with _opened(path) as file:
        deadline = time.monotonic() + RELEASE_SECONDS
        while not _try_lock(file.fileno()):
            holder = path.read_text().strip()
            is_alive = holder.isdecimal() and ProcessIdentity.of(int(holder)) is not None
            if is_alive or time.monotonic() > deadline:
                raise DirectoryInUse(
                    f"{path.parent} is in use by process {holder or 'unknown'}; stop that one, or choose another directory "
                    "with --data",
                    target=holder or None,
                )
            time.sleep(0.01)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        return path.open("a+")
    except OSError as error:
        raise InvalidArgument(
            f"{path.parent} cannot hold the data ({error.strerror}); choose a directory with --data that can be made or written to",
            target=str(path.parent),
        ) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
