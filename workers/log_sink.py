"""The log of one attempt, on its way to PostgreSQL: a bounded buffer, and the thread that writes it while it grows.

Text comes in from any thread and leaves as numbered chunks. Of a log beyond its limit head and tail are kept and the cut is
said: the head leaves while the attempt runs, the tail when it ends. A chunk that the flusher is writing right now is returned
by `drain` as well, because the flusher's transaction may come too late for the claim; its number makes it count once.
"""

import contextvars
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from schema.identity import SubtaskId, TaskId
from schema.transitions.logs import LogRow
from workers.log_text import LogText
from workers.plain_text import as_lines, as_shown, as_shown_so_far, storable

_LONGEST_PIECED_LINE = 8 * 1024

_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Who wants to know that a sink has text to write."""

    def watch(self, sink: "LogSink") -> None:
        """Take the sink in, until it is closed."""


class LogSink:
    """The log of one attempt. Costs next to nothing until something is written."""

    __slots__ = (
        "_claim",
        "_closed",
        "_in_flight",
        "_limit",
        "_lock",
        "_pieces",
        "_reported",
        "_sequence",
        "_subtask",
        "_task",
        "_text",
        "_watcher",
    )

    def __init__(self, task: TaskId, subtask: SubtaskId, claim: int, *, limit_bytes: int, watcher: Watcher) -> None:
        """Make the sink of one attempt.

        Args:
            task: Whose.
            subtask: Whose.
            claim: The claim number that the attempt runs under.
            limit_bytes: How much of the log is kept.
            watcher: Told at the first write.

        """
        self._task = task
        self._subtask = subtask
        self._claim = claim
        self._limit = limit_bytes
        self._watcher = watcher
        # Reentrant: an object's __del__ may print while its own thread is in here.
        self._lock = threading.RLock()
        self._text: LogText | None = None
        self._pieces: dict[tuple[str, int], str] = {}
        self._in_flight: list[LogRow] = []
        self._sequence = 0
        self._reported: int | None = None
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether the attempt has ended: nothing is taken any more."""
        return self._closed

    def write(self, text: str, stream: str = "stdout") -> bool:
        """Take text as it is written to a stream, in pieces; a thread's line enters the log when it is whole.

        False when the attempt has ended: the text is not taken.
        """
        source = (stream, threading.get_ident())
        with self._lock:
            if self._closed:
                return False
            text = self._pieces.pop(source, "") + text
            end = text.rfind("\n") + 1
            if end:
                self._append(as_shown(storable(text[:end])))
            if end < len(text):
                self._keep_piece(source, as_shown_so_far(text[end:]))
            return True

    def write_lines(self, text: str) -> bool:
        """Take a whole message of one or more lines. False when the attempt has ended."""
        text = as_lines(storable(text))
        with self._lock:
            if self._closed:
                return False
            self._append(text if text.endswith("\n") else text + "\n")
            return True

    def report(self, text: str) -> None:
        """Take what is said of the attempt's failure, and remember the line where it begins."""
        with self._lock:
            self._end_pieces()
            self._reported = 0 if self._text is None else self._text.lines
            self.write_lines(text)

    def close(self) -> None:
        """Take nothing any more: the attempt has ended."""
        with self._lock:
            if not self._closed:
                self._end_pieces()
                if self._text is not None:
                    self._text.seal()
                self._closed = True

    @property
    def reported_line(self) -> int | None:
        """The line, from 1 on, where the failure is reported; final once the sink is closed. None if it was cut away."""
        with self._lock:
            if self._reported is None or self._text is None:
                return None
            return self._text.stored_line(self._reported)

    def collect(self) -> list[LogRow]:
        """Return what can be written now, for the flusher; `confirm` it once it is."""
        with self._lock:
            if self._closed:
                return []
            if self._text is not None:
                self._in_flight += self._numbered(self._text.take_head())
            return list(self._in_flight)

    def confirm(self, rows: Sequence[LogRow]) -> None:
        """Forget chunks that are stored."""
        with self._lock:
            stored = {row.sequence for row in rows}
            self._in_flight = [row for row in self._in_flight if row.sequence not in stored]

    def drain(self) -> list[LogRow]:
        """Close, and return all that may not be stored yet, for the transaction that records the outcome.

        May be called again when that transaction has failed: it returns the same rows.
        """
        self.close()
        with self._lock:
            if self._text is not None:
                self._in_flight += self._numbered(self._text.take_all())
            return list(self._in_flight)

    def _append(self, text: str) -> None:
        is_first = self._text is None
        if self._text is None:
            self._text = LogText(self._limit)
        self._text.append(text)
        if is_first:
            self._watcher.watch(self)

    def _keep_piece(self, source: tuple[str, int], rest: str) -> None:
        if len(rest) <= _LONGEST_PIECED_LINE:
            self._pieces[source] = rest
        else:
            self._append(storable(rest.rstrip("\r")))

    def _end_pieces(self) -> None:
        pieces, self._pieces = self._pieces, {}
        for piece in pieces.values():
            self._append(as_shown(storable(piece) + "\n"))
        if self._text is not None:
            self._text.end_line()

    def _numbered(self, texts: Sequence[str]) -> list[LogRow]:
        first = self._sequence
        self._sequence += len(texts)
        return [
            LogRow(self._task, self._subtask, self._claim, sequence, text) for sequence, text in enumerate(texts, first)
        ]


class LogFlusher:
    """Writes the logs of attempts that run for a while, so that they can be followed; one thread for a process.

    The thread starts with the first log: a pool process may be forked before it.
    """

    def __init__(self, write: Callable[[Sequence[LogRow]], None], *, interval_seconds: float = 0.5) -> None:
        """Make a flusher.

        Args:
            write: Stores rows in a transaction of its own.
            interval_seconds: How often; an attempt that ends sooner is left to the record of its outcome.

        """
        self._write = write
        self._interval = interval_seconds
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._fresh: list[LogSink] = []
        self._watched: list[LogSink] = []

    def watch(self, sink: LogSink) -> None:
        """Take a sink in, until it is closed."""
        with self._lock:
            self._fresh.append(sink)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="log-flusher", daemon=True)
                # In a context of its own: the thread must not belong to the attempt that happens to log first.
                contextvars.Context().run(thread.start)
                self._thread = thread

    def stop(self) -> None:
        """End the thread; what is not written yet stays in the sinks."""
        self._stopping.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def flush(self) -> None:
        """Write what there is of attempts that began to log before the last call, and still run."""
        with self._lock:
            watched = [sink for sink in self._watched if not sink.is_closed]
            self._watched, self._fresh = watched + self._fresh, []
        collected = [(sink, sink.collect()) for sink in watched]
        rows = [row for _, found in collected for row in found]
        if rows:
            self._write(rows)
        for sink, found in collected:
            sink.confirm(found)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                self.flush()
            except Exception:  # noqa: BLE001 - whatever it is, it is told and the thread goes on
                # Nothing is lost: the sinks still hold it, for the next time or for the outcome's transaction.
                _log.exception("logs of running attempts could not be written; will be tried again")
