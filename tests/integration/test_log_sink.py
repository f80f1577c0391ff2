"""Logs reach PostgreSQL while the attempt runs, with its outcome, once, and only under a claim that is held."""

import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import Engine, text

from schema.database import transaction
from schema.identity import SubtaskId, TaskId
from schema.transitions.logs import LogRow, write_logs
from workers.log_sink import LogFlusher, LogSink

TASK, SUBTASK, CLAIM = TaskId(1), SubtaskId(11), 5


@pytest.fixture
def running(engine: Engine) -> Engine:
    """A database with one subtask that runs under the claim."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO subtasks (id, task_id, state, claim, process, started_at)"
                " VALUES (:id, :task, 'RUNNING', :claim, 1, now())"
            ),
            {"id": SUBTASK, "task": TASK, "claim": CLAIM},
        )
    return engine


def end(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE subtasks SET state = 'SUCCESSFUL', claim = NULL, process = NULL, finalized_at = now()")
        )


def write(engine: Engine, rows: Sequence[LogRow]) -> None:
    with transaction(engine) as connection:
        write_logs(connection, rows)


def stored(engine: Engine) -> str:
    with engine.connect() as connection:
        return "".join(connection.execute(text("SELECT text FROM subtask_logs ORDER BY sequence")).scalars())


def make_sink(flusher: LogFlusher) -> LogSink:
    return LogSink(TASK, SUBTASK, CLAIM, limit_bytes=1 << 20, watcher=flusher)


def test_rows_are_stored_as_they_are(running: Engine) -> None:
    awkward = 'back\\slash "quotes" \\u0000 \t ✓ 𝄞\n'

    write(running, [LogRow(TASK, SUBTASK, CLAIM, 0, awkward), LogRow(TASK, SUBTASK, CLAIM, 1, "more\n")])

    assert stored(running) == awkward + "more\n"


def test_a_chunk_written_twice_is_kept_once(running: Engine) -> None:
    row = LogRow(TASK, SUBTASK, CLAIM, 0, "once\n")

    write(running, [row])
    write(running, [row])

    assert stored(running) == "once\n"


def test_nothing_is_stored_under_a_claim_that_was_lost(running: Engine) -> None:
    write(running, [LogRow(TASK, SUBTASK, CLAIM - 1, 0, "stale\n")])
    end(running)
    write(running, [LogRow(TASK, SUBTASK, CLAIM, 0, "late\n")])

    assert stored(running) == ""


def test_writing_nothing_is_fine(running: Engine) -> None:
    write(running, [])

    assert stored(running) == ""


def test_a_running_attempt_is_flushed_before_it_ends(running: Engine) -> None:
    flushed = threading.Event()

    def write_and_tell(rows: Sequence[LogRow]) -> None:
        write(running, rows)
        flushed.set()

    flusher = LogFlusher(write_and_tell, interval_seconds=0.01)
    sink = make_sink(flusher)

    sink.write("followed live\n")

    assert flushed.wait(10)
    assert stored(running) == "followed live\n"
    flusher.stop()
    sink.write("the rest\n")
    write(running, sink.drain())
    assert stored(running) == "followed live\nthe rest\n"


def test_an_attempt_that_ends_at_once_is_left_to_its_outcome(running: Engine) -> None:
    written: list[Sequence[LogRow]] = []
    flusher = LogFlusher(written.append, interval_seconds=3600)
    sink = make_sink(flusher)
    sink.write("short\n")

    flusher.flush()
    rows = sink.drain()
    flusher.flush()
    flusher.stop()

    assert written == []
    assert [row.text for row in rows] == ["short\n"]


def test_what_could_not_be_written_is_written_later(running: Engine) -> None:
    failures = iter([ConnectionError("away")])

    def write_once_it_works(rows: Sequence[LogRow]) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        write(running, rows)

    flusher = LogFlusher(write_once_it_works, interval_seconds=3600)
    sink = make_sink(flusher)
    sink.write("patient\n")
    flusher.flush()

    with pytest.raises(ConnectionError):
        flusher.flush()
    sink.write("more\n")
    flusher.flush()
    flusher.stop()

    assert stored(running) == "patient\nmore\n"
    assert sink.drain() == []


def test_the_thread_outlives_a_database_that_is_away(running: Engine) -> None:
    flushed = threading.Event()
    failures = iter([ConnectionError("away"), ConnectionError("away")])

    def write_once_it_works(rows: Sequence[LogRow]) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        write(running, rows)
        flushed.set()

    flusher = LogFlusher(write_once_it_works, interval_seconds=0.01)
    make_sink(flusher).write("patient\n")

    assert flushed.wait(10)
    flusher.stop()
    assert stored(running) == "patient\n"


def test_the_flusher_and_the_outcome_may_write_the_same_chunk_at_once(running: Engine) -> None:
    inserted, may_commit = threading.Event(), threading.Event()

    def write_slowly(rows: Sequence[LogRow]) -> None:
        with transaction(running) as connection:
            write_logs(connection, rows)
            inserted.set()
            assert may_commit.wait(10)

    flusher = LogFlusher(write_slowly, interval_seconds=3600)
    sink = make_sink(flusher)
    sink.write("one\n")
    flusher.flush()
    thread = threading.Thread(target=flusher.flush)
    thread.start()
    assert inserted.wait(10)
    sink.write("two\n")
    rows = sink.drain()
    threading.Timer(0.05, may_commit.set).start()

    write(running, rows)

    thread.join()
    flusher.stop()
    assert stored(running) == "one\ntwo\n"
