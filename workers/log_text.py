"""The text of one log within its limit: a head, a tail, and in between one line that says how much was cut.

Pure memory, no threads. Chunks are at most 64 KiB and begin at the start of a line, unless a line is longer than a chunk.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

CHUNK_BYTES = 64 * 1024

_CUT_LINE_BYTES = 128
_CHUNKS_OF_A_SMALL_LIMIT = 16


@dataclass(frozen=True, slots=True)
class _Chunk:
    text: str
    size: int
    lines: int


class LogText:
    """Takes text at its end, gives it out in chunks; forgets the middle when there is too much."""

    def __init__(self, limit_bytes: int, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._half = max(0, limit_bytes - _CUT_LINE_BYTES) // 2
        self._chunk_bytes = max(1, min(chunk_bytes, self._half // _CHUNKS_OF_A_SMALL_LIMIT))
        self.lines = 0
        self._ends_with_newline = True
        self._open = StringIO()
        self._open_size = 0
        self._open_lines = 0
        self._head: list[str] = []
        self._head_size = 0
        self._head_lines = 0
        self._tail: deque[_Chunk] | None = None
        self._tail_size = 0
        self._cut_size = 0
        self._cut_lines = 0
        self._cut_is_said = False
        self._head_ends_with_newline = True

    def append(self, text: str) -> None:
        """Take storable text."""
        for piece, size in _pieces(text, self._chunk_bytes):
            if self._open_size + size > self._chunk_bytes:
                self.seal()
            lines = piece.count("\n")
            self._open.write(piece)
            self._open_size += size
            self._open_lines += lines
            self.lines += lines
        if text:
            self._ends_with_newline = text.endswith("\n")

    def end_line(self) -> None:
        """Make sure that what comes next starts a line."""
        if not self._ends_with_newline:
            self.append("\n")

    def seal(self) -> None:
        """End the open chunk and put it where it belongs; forget the oldest of the tail where that is too much."""
        if not self._open_size:
            return
        chunk = _Chunk(self._open.getvalue(), self._open_size, self._open_lines)
        self._open = StringIO()
        self._open_size = self._open_lines = 0
        if self._tail is None and self._head_size + chunk.size <= self._half:
            self._head.append(chunk.text)
            self._head_size += chunk.size
            self._head_lines += chunk.lines
            self._head_ends_with_newline = chunk.text.endswith("\n")
            return
        self._tail = deque() if self._tail is None else self._tail
        self._tail.append(chunk)
        self._tail_size += chunk.size
        while self._tail_size > self._half:
            oldest = self._tail.popleft()
            self._tail_size -= oldest.size
            self._cut_size += oldest.size
            self._cut_lines += oldest.lines

    def take_head(self) -> list[str]:
        """Return the chunks of the head that were not returned before."""
        if self._tail is None:
            self.seal()
        taken, self._head = self._head, []
        return taken

    def take_all(self) -> list[str]:
        """Return everything not returned before: the rest of the head, the word about the cut, the tail."""
        self.seal()
        taken = self.take_head()
        if self._cut_size and not self._cut_is_said:
            start = "" if self._head_ends_with_newline else "\n"
            taken.append(f"{start}[{self._cut_size} bytes of this log were left out here: it is over its limit]\n")
            self._cut_is_said = True
        taken += [chunk.text for chunk in self._tail or ()]
        self._tail = deque() if self._tail is not None else None
        self._tail_size = 0
        return taken

    def stored_line(self, line: int) -> int | None:
        """Return as which line, from 1 on, the given one (from 0 on) stands in what is kept; None if it was cut."""
        if line < self._head_lines or not self._cut_size:
            return line + 1
        if line < self._head_lines + self._cut_lines:
            return None
        cut_line = 1 if self._head_ends_with_newline else 2
        return line - self._cut_lines + cut_line + 1


def _pieces(text: str, chunk_bytes: int) -> Iterator[tuple[str, int]]:
    """Yield the text in pieces of at most a chunk, with their sizes as UTF-8; cut after a newline where there is one."""
    size = _size(text)
    if size <= chunk_bytes:
        yield text, size
        return
    longest = max(1, chunk_bytes // (1 if text.isascii() else 4))
    start = 0
    while start < len(text):
        end = min(start + longest, len(text))
        if end < len(text) and (newline := text.rfind("\n", start, end)) >= 0:
            end = newline + 1
        yield text[start:end], _size(text[start:end])
        start = end


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
