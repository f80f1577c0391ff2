"""The demo's kinds: an inventory of the Python distributions on this machine, and what changed since the last one.

Distributions are known by their normalised names; where several paths hold one of a name, the first counts, as it does for
Python. The last inventory is the file that the last report wrote.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from workers import Context, subtask
from workers.handlers.inventory_page import page

FILE, PAGE = "inventory.json", "inventory.html"
_CHUNK_BYTES = 1024 * 1024
_METADATA_SUFFIXES = (".dist-info", ".egg-info")


@dataclass(frozen=True, slots=True)
class Found:
    """A distribution that is there."""

    name: str
    version: str
    location: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """All that is there, against what was expected when the task was submitted."""

    distributions: list[Found]
    unexpected: list[str]
    missing: list[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """A distribution and what its files are: count, bytes, and a digest of names and contents."""

    name: str
    version: str
    location: str
    files: int
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What tells whether a distribution has changed."""

    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """All distributions, small enough to be a result."""

    files: int
    bytes: int
    entries: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Change:
    """A distribution that is another one than it was; with the same version, its files are others."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since the last inventory; `since` is None where there was none."""

    since: str | None
    added: list[str]
    removed: list[str]
    changed: list[Change]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the report keeps for the next run."""

    taken_at: str
    task: str
    files: int
    bytes: int
    changes: Changes
    distributions: list[Measured]


@dataclass(frozen=True, slots=True)
class Written:
    """Where the report is."""

    file: str
    page: str


_KEPT: TypeAdapter[Kept] = TypeAdapter(Kept)


@subtask("inventory.discover", timeout=120)
def discover(ctx: Context, paths: list[str], expected: list[str]) -> Discovery:
    """Find the distributions on these paths."""
    found = sorted(_first_of_each_name(paths), key=lambda one: one.name)
    names = {one.name for one in found}
    ctx.log.info("%d distributions on %d paths", len(found), len(paths))
    return Discovery(
        found, unexpected=sorted(names.difference(expected)), missing=sorted(set(expected).difference(names))
    )


@subtask("inventory.measure", timeout=300, max_attempts=2)
def measure(ctx: Context, distribution: str, paths: list[str]) -> Measured:
    """Count and hash the files of one distribution."""
    found = next(iter(importlib.metadata.distributions(name=distribution, path=paths)), None)
    if found is None:
        raise LookupError(f"{distribution} is not installed any more: submit the inventory again")
    location = Path(str(found.locate_file("")))
    digest, count, size = hashlib.sha256(), 0, 0
    for path in _files_of(found, location, distribution):
        ctx.raise_if_cancelled()
        digest.update(os.path.relpath(path, location).encode(errors="surrogateescape") + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        count += 1
    ctx.log.info("%s %s: %d files, %d bytes", distribution, found.version, count, size)
    return Measured(distribution, found.version, str(location), count, size, digest.hexdigest())


@subtask("inventory.merge", timeout=60)
def merge(measured: list[Measured]) -> Inventory:
    """Put what was measured together."""
    entries = {one.name: Entry(one.version, one.digest) for one in sorted(measured, key=lambda one: one.name)}
    return Inventory(sum(one.files for one in measured), sum(one.bytes for one in measured), entries)


@subtask("inventory.compare", timeout=60)
def compare(ctx: Context, inventory: Inventory, directory: str) -> Changes:
    """Compare with the inventory that the last report kept."""
    last = _last_kept(Path(directory) / FILE)
    if last is None:
        ctx.log.info("no inventory to compare with in %s", directory)
        return Changes(None, [], [], [])
    before = {one.name: Entry(one.version, one.digest) for one in last.distributions}
    now = inventory.entries
    changed = [
        Change(name, before[name].version, now[name].version)
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]
    return Changes(last.taken_at, sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys()), changed)


@subtask("inventory.report", timeout=60)
def report(ctx: Context, measured: list[Measured], inventory: Inventory, changes: Changes, directory: str) -> Written:
    """Write the inventory as a file for programs and a page for people."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    kept = Kept(
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        task=ctx.task.hex_id,
        files=inventory.files,
        bytes=inventory.bytes,
        changes=changes,
        distributions=sorted(measured, key=lambda one: one.name),
    )
    document = asdict(kept)
    # The page first: the file is what the next run compares with, so it tells of a complete report only.
    _write(target / PAGE, page(document))
    _write(target / FILE, json.dumps(document, indent=1) + "\n")
    ctx.log.info("report written to %s", target)
    return Written(str(target / FILE), str(target / PAGE))


def _first_of_each_name(paths: list[str]) -> Iterator[Found]:
    seen: set[str] = set()
    for one in importlib.metadata.distributions(path=paths):
        given = one.metadata["Name"]
        name = _normalised(given) if given else ""
        if name and name not in seen:
            seen.add(name)
            yield Found(name, one.version, str(one.locate_file("")))


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _files_of(distribution: Distribution, location: Path, name: str) -> list[Path]:
    """Return the files that are there, in order: those the distribution lists, and its metadata in any case."""
    listed = {Path(os.path.normpath(str(one.locate()))) for one in distribution.files or ()}
    listed.update(_metadata_of(location, name))
    return sorted(one for one in listed if "__pycache__" not in one.parts and one.is_file())


def _metadata_of(location: Path, name: str) -> Iterator[Path]:
    for entry in location.iterdir():
        if entry.suffix in _METADATA_SUFFIXES and _normalised(entry.stem.partition("-")[0]) == name:
            yield from entry.rglob("*") if entry.is_dir() else (entry,)


def _last_kept(path: Path) -> Kept | None:
    try:
        return _KEPT.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ValueError(f"{path} is not an inventory that this version wrote: remove it to begin anew") from error


def _write(path: Path, text: str) -> None:
    """Replace the file at once: a reader sees the old one or the new one, never a part."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
