"""A log within its limit is kept as it is; beyond it, head and tail are kept and the cut is said."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.identity import SubtaskId, TaskId
from workers.log_sink import LogSink
from workers.log_text import CHUNK_BYTES, LogText

CUT = re.compile(r"\[(\d+) bytes of this log were left out here: it is over its limit\]\n")


class Nobody:
    """Watches nothing."""

    def watch(self, sink: LogSink) -> None: ...


def make_sink(limit_bytes: int = 1 << 24) -> LogSink:
    return LogSink(TaskId(1), SubtaskId(2), 3, limit_bytes=limit_bytes, watcher=Nobody())


def text_of(sink: LogSink) -> str:
    return "".join(row.text for row in sink.drain())


def test_pieces_of_a_line_enter_the_log_when_it_is_whole() -> None:
    sink = make_sink()

    sink.write("a")
    sink.write_lines("whole")
    sink.write("b\nc")

    assert text_of(sink) == "whole\nab\nc\n"


def test_lines_of_two_streams_stay_whole() -> None:
    sink = make_sink()

    sink.write("out", "stdout")
    sink.write("err", "stderr")
    sink.write("put\n", "stdout")
    sink.write("or\n", "stderr")

    assert text_of(sink) == "output\nerror\n"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (["a\r\nb\r\n"], "a\nb\n"),
        (["a\r", "\nb\n"], "a\nb\n"),
        (["10%\r20%\r100%\n"], "100%\n"),
        (["10%\r", "20%\r", "100%\r", "\n"], "100%\n"),
        (["\r10%", "\r20%", "\r100%"], "100%\n"),
        (["a\x00b\ud800c\n"], "a\ufffdb\ufffdc\n"),
        (["naïve ✓\n"], "naïve ✓\n"),
        ([""], ""),
    ],
)
def test_text_is_kept_as_a_terminal_would_show_it(written: list[str], kept: str) -> None:
    sink = make_sink()

    for text in written:
        sink.write(text)

    assert text_of(sink) == kept


def test_a_logged_message_loses_nothing_to_carriage_returns() -> None:
    sink = make_sink()

    sink.write_lines("a\rb\r\nc")

    assert text_of(sink) == "a\nb\nc\n"


def test_a_progress_bar_without_end_takes_no_room() -> None:
    sink = make_sink()

    for step in range(100_000):
        sink.write(f"step {step}\r")

    assert text_of(sink) == "step 99999\n"


def test_chunks_are_bounded_and_end_with_a_line() -> None:
    sink = make_sink()

    sink.write("".join(f"line {n} é\n" for n in range(50_000)))
    rows = sink.drain()

    assert [row.sequence for row in rows] == list(range(len(rows)))
    assert all(len(row.text.encode()) <= CHUNK_BYTES and row.text.endswith("\n") for row in rows)
    assert len(rows) < 20


def test_a_line_longer_than_a_chunk_is_split() -> None:
    sink = make_sink()

    sink.write("é" * 100_000 + "\n")
    rows = sink.drain()

    assert "".join(row.text for row in rows) == "é" * 100_000 + "\n"
    assert all(len(row.text.encode()) <= CHUNK_BYTES for row in rows)


def test_head_and_tail_are_kept_and_the_cut_is_said() -> None:
    sink = make_sink(limit_bytes=20_000)

    written = "".join(f"line {n:06}\n" for n in range(10_000))
    sink.write(written)
    kept = text_of(sink)
    head, dropped, tail = CUT.split(kept)

    assert written.startswith(head)
    assert written.endswith(tail)
    assert len(head) + int(dropped) + len(tail) == len(written)
    assert len(kept.encode()) <= 20_000
    assert min(len(head), len(tail)) > 8_000


def test_a_log_at_its_limit_is_not_cut() -> None:
    sink = make_sink(limit_bytes=20_000)
    written = "x" * 99 + "\n"

    for _ in range(190):
        sink.write(written)

    assert text_of(sink) == written * 190


def test_the_line_of_the_failure_is_counted_from_one() -> None:
    sink = make_sink()

    sink.write("one\ntwo\nhalf a line")
    sink.report("ValueError: x\n")
    sink.close()

    assert text_of(sink).splitlines()[3] == "ValueError: x"
    assert sink.reported_line == 4


def test_the_line_of_the_failure_is_final_once_the_sink_is_closed() -> None:
    sink = make_sink(limit_bytes=20_000)
    # The report's own last chunk is what makes the log too long.
    for _ in range(195):
        sink.write("x" * 99 + "\n")

    sink.report("THE FAILURE\n" + "frame\n" * 300)
    sink.close()
    line = sink.reported_line

    assert line is not None
    assert text_of(sink).splitlines()[line - 1] == "THE FAILURE"
    assert sink.reported_line == line


def test_the_line_of_a_failure_in_an_empty_log_is_the_first() -> None:
    sink = make_sink()

    sink.report("ValueError: x\n")

    assert sink.reported_line == 1


def test_without_a_failure_there_is_no_such_line() -> None:
    sink = make_sink()
    sink.write("fine\n")

    assert sink.reported_line is None


@given(
    before=st.lists(st.text(alphabet="ab\né", min_size=1, max_size=300), max_size=80),
    limit=st.integers(1000, 6000),
)
def test_the_line_of_the_failure_is_right_wherever_the_log_was_cut(before: list[str], limit: int) -> None:
    sink = make_sink(limit_bytes=limit)
    for text in before:
        sink.write(text)

    sink.report("THE FAILURE\n")
    sink.close()
    line = sink.reported_line
    kept = text_of(sink)

    assert len(kept.encode()) <= limit
    assert line is not None
    assert kept.split("\n")[line - 1] == "THE FAILURE"


def test_an_ended_attempt_takes_nothing() -> None:
    sink = make_sink()
    sink.write("in time\n")
    sink.close()

    assert not sink.write("late\n")
    assert not sink.write_lines("late")
    assert text_of(sink) == "in time\n"


def test_what_the_flusher_is_writing_is_drained_again_until_it_is_confirmed() -> None:
    sink = make_sink()
    sink.write("one\n")
    in_flight = sink.collect()
    sink.write("two\n")

    assert [row.text for row in sink.drain()] == ["one\n", "two\n"]
    assert sink.drain() == sink.drain()

    sink.confirm(in_flight)
    assert [(row.sequence, row.text) for row in sink.drain()] == [(1, "two\n")]


def test_the_head_is_given_out_while_it_grows_and_only_once() -> None:
    text = LogText(1 << 20)
    text.append("one\n")

    assert text.take_head() == ["one\n"]
    assert text.take_head() == []
    text.append("two\n")
    assert text.take_all() == ["two\n"]
    assert text.take_all() == []
