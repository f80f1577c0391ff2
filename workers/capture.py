"""Where print() and logging go while a handler runs: to its attempt's log.

Installed once in a process: stand-ins for `sys.stdout` and `sys.stderr`, a handler on the root logger, and a start of threads
that makes a thread begun by a handler belong to its attempt. Which attempt is a matter of the context variable, so attempts
in several threads do not mix. What belongs to no attempt, or to one that has ended, passes through. Not captured: what
subprocesses and C code write to the file descriptors themselves, and threads that were there before the attempt.
"""

import io
import logging
import os
import sys
import threading
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from workers.log_sink import LogSink

_sink: ContextVar[LogSink | None] = ContextVar("taskserver_log_sink", default=None)


class _Format(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002 - the name of the standard library
        return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(timespec="milliseconds")


_FORMAT = _Format("%(asctime)s %(levelname)s %(name)s: %(message)s")


class capturing:  # noqa: N801 - reads as a statement: with capturing(sink)
    """Send what the block prints and logs to this sink."""

    __slots__ = ("_given", "_token")

    def __init__(self, sink: LogSink) -> None:
        self._given = sink

    def __enter__(self) -> Self:
        self._token: Token[LogSink | None] = _sink.set(self._given)
        return self

    def __exit__(self, *exception: object) -> None:
        _sink.reset(self._token)


def is_outside_attempts(_record: logging.LogRecord) -> bool:
    """Tell whether no attempt runs here; the filter that keeps what handlers log off the worker's own console."""
    sink = _sink.get()
    return sink is None or sink.is_closed


def make_logger(sink: LogSink, name: str) -> logging.Logger:
    """Return a logger, known to nobody else, that writes to this sink from any thread."""
    logger = logging.Logger(name, logging.INFO)  # noqa: LOG001 - its name is shared, its handler is not
    logger.addHandler(_SinkHandler(sink))
    return logger


class Capture:
    """The redirection of one process' output; `install` it once, after logging is set up."""

    def __init__(self, *, level: int = logging.INFO) -> None:
        self._level = level
        self._handler = _RoutingHandler()
        self._before: tuple[TextIO, TextIO, int] | None = None

    def install(self) -> None:
        """Put the stand-ins in place; from now on handlers' records of the level and above go to their attempts only."""
        if self._before is not None:
            return
        root = logging.getLogger()
        self._before = (sys.stdout, sys.stderr, root.level)
        sys.stdout = _RoutedStream(sys.stdout, "stdout")
        sys.stderr = _RoutedStream(sys.stderr, "stderr")
        for handler in root.handlers:
            handler.addFilter(is_outside_attempts)
        root.addHandler(self._handler)
        root.setLevel(min(root.level, self._level))
        threading.Thread.start = _start_within_attempt  # type: ignore[method-assign, assignment]

    def remove(self) -> None:
        """Put everything back as it was."""
        if self._before is None:
            return
        root = logging.getLogger()
        sys.stdout, sys.stderr, level = self._before
        root.removeHandler(self._handler)
        for handler in root.handlers:
            handler.removeFilter(is_outside_attempts)
        root.setLevel(level)
        threading.Thread.start = _START  # type: ignore[method-assign]
        self._before = None


class _RoutedStream(io.TextIOBase):
    """Stands for a text stream: writes go to the sink of the attempt that runs here, else to the stream itself."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self.buffer = _RoutedBytes(self)

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        sink = _sink.get()
        if sink is None or not sink.write(text, self._name):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return _sink.get() is None and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        """Do nothing: a handler that closes its standard output must not close the worker's."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _RoutedBytes(io.RawIOBase):
    """The bytes side of a routed stream; bytes that are no UTF-8 are shown as U+FFFD."""

    def __init__(self, text: _RoutedStream) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._text.write(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def flush(self) -> None:
        self._text.flush()

    def close(self) -> None:
        """Do nothing, as above."""


class _SinkHandler(logging.Handler):
    def __init__(self, sink: LogSink) -> None:
        super().__init__()
        self._sink = sink
        self.formatter = _FORMAT

    def emit(self, record: logging.LogRecord) -> None:
        if self._sink.is_closed:
            logging.getLogger(record.name).handle(record)
        else:
            _write(self, self._sink, record)


class _RoutingHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.formatter = _FORMAT

    def emit(self, record: logging.LogRecord) -> None:
        sink = _sink.get()
        if sink is not None and not sink.is_closed:
            _write(self, sink, record)
        elif _is_last_resort(self, record) and logging.lastResort is not None:
            logging.lastResort.handle(record)


def _is_last_resort(handler: logging.Handler, record: logging.LogRecord) -> bool:
    """Tell whether the record would have gone to the handler of last resort, were it not for this one."""
    last = logging.lastResort
    return last is not None and record.levelno >= last.level and logging.getLogger().handlers == [handler]


def _write(handler: logging.Handler, sink: LogSink, record: logging.LogRecord) -> None:
    try:
        text = handler.format(record)
    except Exception:  # noqa: BLE001 - the way of the standard library: tell on stderr which call is wrong
        handler.handleError(record)
    else:
        sink.write_lines(text)


_START = threading.Thread.start


def _leave_attempt() -> None:
    _sink.set(None)


# A forked child has a copy of the sink that nobody ever writes: its output passes through.
os.register_at_fork(after_in_child=_leave_attempt)


def _start_within_attempt(thread: threading.Thread) -> None:
    """Start a thread; begun by an attempt, it writes to that attempt's log."""
    sink = _sink.get()
    if sink is not None:
        run = thread.run

        def run_within_attempt() -> None:
            _sink.set(sink)
            run()

        thread.run = run_within_attempt  # type: ignore[method-assign]
    _START(thread)
