"""Where the embedded stack keeps its files below its one directory, and where its sockets go when that is too deep.

Directories made here are private. What exists already is looked at, not changed: nobody's permissions are widened.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from schema.errors import Unavailable

# sun_path takes 108 bytes with its final NUL on Linux, 104 on BSD and macOS; the longest socket name is PostgreSQL's.
LONGEST_SOCKET_DIRECTORY = 103 - len("/postgres/.s.PGSQL.5432")
# Both clients give meaning to some signs in a path (a comma separates hosts, a % escapes, a ? begins options).
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+@-]+")


class DirectoryUnsafe(Unavailable):
    """A directory that must be private is not ours alone."""


@dataclass(frozen=True, slots=True)
class Places:
    """The layout below one directory."""

    root: Path

    @property
    def postgres_data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.root / "postgres"

    @property
    def logs(self) -> Path:
        """One log file for each part."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Pid files."""
        return self.root / "run"

    @property
    def lock(self) -> Path:
        """The file that is locked while a stack uses the directory."""
        return self.root / "lock"

    @property
    def sockets(self) -> Path:
        """Directory of the sockets: `run`, or a short one named by a hash where that path is too long or not plain."""
        if len(os.fsencode(self.run)) <= LONGEST_SOCKET_DIRECTORY and PLAIN_PATH.fullmatch(str(self.run)):
            return self.run
        return short_temporary_directory() / f"taskserver-{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]}"

    def make(self) -> None:
        """Make what is missing."""
        # Its subdirectories are private; being able to pass through lets PostgreSQL run without any privilege as root.
        self.root.mkdir(parents=True, exist_ok=True, mode=0o711)
        private_directory(self.logs)
        private_directory(self.run, mode=0o711)
        private_directory(self.sockets, mode=0o711)

    def remove_short(self) -> None:
        """Remove what was made outside the root, once the servers have ended."""
        if self.sockets != self.run:
            shutil.rmtree(self.sockets)


def short_temporary_directory() -> Path:
    """Return the temporary directory, or /tmp where the set one is itself too deep for a socket."""
    directory = Path(tempfile.gettempdir()).resolve()
    plain = PLAIN_PATH.fullmatch(str(directory)) is not None
    return directory if plain and len(str(directory)) <= 50 else Path("/tmp")  # noqa: PLR2004, S108 (checked when made)


def private_directory(path: Path, *, owner: int | None = None, group: int = -1, mode: int = 0o700) -> None:
    """Make a directory that only its owner (we, unless given) can write to, or see that an existing one is such.

    Raises:
        DirectoryUnsafe: It exists and belongs to, or can be changed by, somebody else.
    """
    owner = os.geteuid() if owner is None else owner
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        require_private(path, owner)
    else:
        if owner != os.geteuid():
            os.chown(path, owner, group)


def require_private(path: Path, owner: int) -> None:
    """See that this is a directory of that user which nobody else can write to.

    Raises:
        DirectoryUnsafe: It is not.
    """
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o022:
        raise DirectoryUnsafe(
            f"{path} must be a directory of user id {owner} that nobody else can write to, but belongs to user id "
            f"{found.st_uid} with mode {stat.filemode(found.st_mode)}; remove it, or choose another directory"
        )
