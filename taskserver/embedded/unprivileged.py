"""Runs PostgreSQL, which refuses to be root, for a user who is root.

It then runs as `postgres` where that user exists, else as `nobody`, through setpriv(1). Nothing is added to the system and
no existing permissions are changed. Where a directory above the data is closed to that user (a checkout below /root), the
process keeps the one capability that passes through it. access(2), with which PostgreSQL and the loader look at programs,
does not honour capabilities, so programs below a closed directory are copied to where everybody may run them.
"""

import errno
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from schema.errors import Unavailable
from taskserver.embedded.places import require_private, short_temporary_directory
from taskserver.embedded.programs import PostgresPrograms

CURES = "run as an ordinary user, or set TASKSERVER_DATABASE_URL to a server of your own"
NOT_NEEDED = ("include", "*.a", "pkgconfig", "pgxs", "doc", "man")


class CannotDropPrivileges(Unavailable):
    """PostgreSQL cannot be run as another user here."""


@dataclass(frozen=True, slots=True)
class Runner:
    """The user that PostgreSQL runs as, and the words before its command that make it so."""

    uid: int
    gid: int
    prefix: tuple[str, ...]


def runner_for(data: Path, sockets: Path) -> Runner:
    """Return ourselves, or as root an unprivileged user that can work at both places: the owner of the data, if there are any.

    Raises:
        CannotDropPrivileges: We are root, and there is no setpriv(1) or no such user.
    """
    if os.geteuid() != 0:
        return Runner(os.geteuid(), os.getegid(), ())
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise CannotDropPrivileges(
            "PostgreSQL does not run as root, and setpriv (of util-linux), which would start it as another user, was not "
            f"found. Install util-linux, {CURES}."
        )
    uid, gid = (data.stat().st_uid, data.stat().st_gid) if data.exists() else _unprivileged_user()
    drop = (setpriv, "--reuid", str(uid), "--regid", str(gid), "--clear-groups")
    pass_through = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")
    is_open = open_to_everybody(data.parent) and open_to_everybody(sockets)
    return Runner(uid, gid, (*drop, *(() if is_open else pass_through), "--"))


def open_to_everybody(directory: Path) -> bool:
    """Tell whether any user can pass through this directory and all above it."""
    return all(part.stat().st_mode & stat.S_IXOTH for part in (directory, *directory.parents))


def runnable(programs: PostgresPrograms, runner: Runner) -> PostgresPrograms:
    """Return programs that the runner can execute: these, or a copy of them in a place open to everybody.

    Raises:
        DirectoryUnsafe: Somebody else owns the place of the copy.
    """
    if not runner.prefix or open_to_everybody(programs.bin_directory):
        return programs
    tree = programs.bin_directory.parent
    libraries = tree.parent.with_name(tree.parent.name + ".libs")
    with programs.postgres.open("rb") as program:  # named by what is copied, so that an upgraded wheel makes a new copy
        name = f"taskserver-postgresql-{programs.major}-{hashlib.file_digest(program, 'sha256').hexdigest()[:16]}"
    home = _temporary_directory_open_to_everybody() / name
    # RPATH leads from bin to ../../../PACKAGE.libs, so both trees keep their places relative to each other.
    top = tree.parent.parent
    copies = {source: source.relative_to(top) for source in (tree, libraries) if source.is_dir()}
    if home.exists():
        require_private(home, os.geteuid())
    if any(_files(source) != _files(home / below) for source, below in copies.items()):
        _copy_complete(copies, home)
    return PostgresPrograms(home / copies[tree] / "bin", programs.major)


def _unprivileged_user() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, user.pw_gid
    raise CannotDropPrivileges(f"PostgreSQL does not run as root, and there is no user postgres or nobody; {CURES}.")


def _temporary_directory_open_to_everybody() -> Path:
    candidates = (short_temporary_directory(), Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (owner and mode are checked)
    for directory in candidates:
        if directory.is_dir() and open_to_everybody(directory):
            return directory
    raise CannotDropPrivileges(f"no temporary directory is open to all users, to copy PostgreSQL to; {CURES}.")


def _copy_complete(copies: dict[Path, Path], home: Path) -> None:
    """Copy all or nothing: the trees appear under their name only when they are whole."""
    with tempfile.TemporaryDirectory(prefix="taskserver-copy-", dir=home.parent) as scratch:
        fresh = Path(scratch, "fresh")
        for source, below in copies.items():
            shutil.copytree(source, fresh / below, symlinks=True, ignore=shutil.ignore_patterns(*NOT_NEEDED))
        for directory, _, files in os.walk(fresh):
            Path(directory).chmod(0o755)
            for path in (Path(directory, name) for name in files if not Path(directory, name).is_symlink()):
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        if home.exists():  # a cleaner of old temporary files took some of it
            home.rename(Path(scratch, "incomplete"))
        try:
            fresh.rename(home)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
            require_private(home, os.geteuid())  # another taskserver made the same copy meanwhile


def _files(tree: Path) -> dict[str, int]:
    ignore = shutil.ignore_patterns(*NOT_NEEDED)
    sizes: dict[str, int] = {}
    for directory, directories, files in os.walk(tree):
        skipped = ignore(directory, [*directories, *files])
        directories[:] = [name for name in directories if name not in skipped]
        for name in files:
            if name not in skipped:
                path = Path(directory, name)
                sizes[str(path.relative_to(tree))] = path.lstat().st_size
    return sizes
