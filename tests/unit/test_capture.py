"""What a handler prints and logs goes to its attempt's log, and nowhere else; the rest passes through."""

import functools
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from schema.identity import SubtaskId, TaskId
from workers.capture import Capture, capturing, is_outside_attempts, make_logger
from workers.log_sink import LogSink


class Watched:
    """Collects the sinks that have begun to log."""

    def __init__(self) -> None:
        self.sinks: list[LogSink] = []

    def watch(self, sink: LogSink) -> None:
        self.sinks.append(sink)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def sink(watched: Watched) -> LogSink:
    return LogSink(TaskId(1), SubtaskId(2), 3, limit_bytes=1 << 20, watcher=watched)


@contextmanager
def worker_console() -> Iterator[io.StringIO]:
    """The worker's own output, with the capture in place. Not a fixture: pytest changes the streams after setup."""
    stream = io.StringIO()
    capture = Capture()
    with redirect_stdout(stream), redirect_stderr(stream):
        capture.install()
        yield stream
        capture.remove()
        assert sys.stdout is stream


say = functools.partial(print)


def text_of(sink: LogSink) -> str:
    return "".join(row.text for row in sink.drain())


def test_print_goes_to_the_attempt_and_only_there(sink: LogSink) -> None:
    with worker_console() as console:
        say("before")
        with capturing(sink):
            say("hello", 42)
            say("oops", file=sys.stderr)
        say("after")

        assert text_of(sink) == "hello 42\noops\n"
        assert console.getvalue() == "before\nafter\n"


def test_logging_goes_to_the_attempt_from_info_on(sink: LogSink) -> None:
    with worker_console() as console:
        with capturing(sink):
            logging.getLogger("library").info("checking %s", "db")
            logging.getLogger("library").debug("details")

        assert text_of(sink).endswith(" INFO library: checking db\n")
        assert console.getvalue() == ""


def test_a_record_of_no_attempt_goes_where_it_would_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker_console() as console:
        root = logging.getLogger()
        monkeypatch.setattr(root, "handlers", [one for one in root.handlers if "workers" in type(one).__module__])

        logging.getLogger("library").warning("careful")
        logging.getLogger("library").info("by the way")

        assert console.getvalue() == "careful\n"


def test_what_a_handler_logs_is_kept_off_the_handlers_of_the_worker(
    sink: LogSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(own)])
    with worker_console():
        logging.getLogger("worker").warning("of the worker")
        with capturing(sink):
            logging.getLogger("library").warning("of the handler")
    with capturing(sink):
        logging.getLogger("library").warning("after removal")

    assert own.getvalue() == "of the worker\nafter removal\n"


def test_the_attempt_that_is_captured_is_no_business_of_the_console(sink: LogSink) -> None:
    record = logging.makeLogRecord({})

    assert is_outside_attempts(record)
    with capturing(sink):
        assert not is_outside_attempts(record)


def test_the_logger_of_the_context_writes_to_the_attempt_from_any_thread(sink: LogSink) -> None:
    logger = make_logger(sink, "host.check")
    thread = threading.Thread(target=logger.info, args=("from %s", "elsewhere"))
    thread.start()
    thread.join()

    assert text_of(sink).endswith(" INFO host.check: from elsewhere\n")


def test_a_wrong_logging_call_is_told_in_the_log(sink: LogSink) -> None:
    with worker_console():
        with capturing(sink):
            make_logger(sink, "host.check").info("%d", "no number")

        assert "--- Logging error ---" in text_of(sink)


def test_threads_that_a_handler_starts_write_to_its_attempt(sink: LogSink) -> None:
    with worker_console() as console:

        def fail() -> None:
            raise LookupError("in a thread")

        with capturing(sink):
            threads = [
                threading.Thread(target=say, args=("from a thread",)),
                threading.Thread(target=say, args=("me too",)),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert sorted(text_of(sink).splitlines()) == ["from a thread", "me too"]
        assert console.getvalue() == ""


def test_a_thread_that_outlives_its_attempt_prints_to_the_console(sink: LogSink) -> None:
    with worker_console() as console:
        ended = threading.Event()

        def late() -> None:
            ended.wait(10)
            say("late")

        with capturing(sink):
            thread = threading.Thread(target=late)
            thread.start()
            say("in time")
        rows = sink.drain()
        ended.set()
        thread.join()

        assert [row.text for row in rows] == ["in time\n"]
        assert console.getvalue() == "late\n"


def test_attempts_in_two_threads_do_not_mix(watched: Watched) -> None:
    with worker_console():
        sinks = [LogSink(TaskId(1), SubtaskId(n), n, limit_bytes=1 << 20, watcher=watched) for n in (1, 2)]
        barrier = threading.Barrier(2)

        def attempt(sink: LogSink, name: str) -> None:
            with capturing(sink):
                for _ in range(100):
                    barrier.wait(10)
                    say(name)

        threads = [threading.Thread(target=attempt, args=(sink, name)) for sink, name in zip(sinks, "ab", strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [text_of(sink) for sink in sinks] == ["a\n" * 100, "b\n" * 100]


def test_bytes_written_to_the_buffer_are_captured(sink: LogSink) -> None:
    with worker_console():
        with capturing(sink):
            sys.stdout.buffer.write("é".encode() + b"\xff\n")

        assert text_of(sink) == "é\ufffd\n"


def test_an_attempt_is_no_terminal_and_cannot_close_the_console(sink: LogSink) -> None:
    with worker_console() as console:
        with capturing(sink):
            assert not sys.stdout.isatty()
            sys.stdout.close()
            say("still here")

        assert text_of(sink) == "still here\n"
        say("here too")
        assert console.getvalue() == "here too\n"


def test_only_text_can_be_written(sink: LogSink) -> None:
    with worker_console(), capturing(sink), pytest.raises(TypeError, match="must be str"):
        sys.stdout.write(b"bytes")  # type: ignore[arg-type]


def test_a_forked_child_does_not_write_to_the_attempt(sink: LogSink) -> None:
    code = (
        "import os, sys\n"
        "from workers.capture import Capture, capturing\n"
        "from workers.log_sink import LogSink\n"
        "Capture().install()\n"
        "class Nobody:\n"
        "    def watch(self, sink): pass\n"
        "with capturing(LogSink(1, 2, 3, limit_bytes=9999, watcher=Nobody())):\n"
        "    child = os.fork()\n"
        "    print('child' if child == 0 else 'parent', flush=True)\n"
        "    child and os.waitpid(child, 0)\n"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)

    assert result.stdout == "child\n"


def test_nothing_is_kept_or_watched_for_an_attempt_that_says_nothing(sink: LogSink, watched: Watched) -> None:
    with capturing(sink):
        pass

    assert sink.drain() == []
    assert watched.sinks == []


def test_installing_twice_is_installing_once() -> None:
    with worker_console():
        capture = Capture()
        capture.install()
        capture.install()
        stand_in = sys.stdout
        capture.remove()
        capture.remove()

        assert sys.stdout is not stand_in
