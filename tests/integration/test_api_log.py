"""The log of a subtask: separators made when it is read, and cursors that neither repeat nor lose."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from schema.database import transaction
from schema.transitions.claims import Claimed
from schema.transitions.logs import LogRow, write_logs
from taskserver.embedded.stack import EmbeddedStack
from taskserver.queries import logs
from tests.api_client import ApiClient, running_api
from tests.factories import StoredTask, execute, make_task

SEPARATOR = re.compile(r"^#{12}\{([A-Z]+)\}\{([^}]+)\}#{12}$", re.MULTILINE)


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


def stored(engine: Engine) -> StoredTask:
    return make_task(engine, {"a": ()}, {"a": {"max_attempts": 1_000}})


def write(task: StoredTask, claimed: Claimed, sequence: int, text: str) -> None:
    with transaction(task.engine) as connection:
        write_logs(connection, [LogRow(task.id, claimed.id, claimed.claim, sequence, text)])


def read(api: ApiClient, task: StoredTask, **parameters: Any) -> Any:
    return api.data(f"/instances/{task.id}/subtasks/{task.ids['a']}/log", params=parameters)


def attempt(task: StoredTask, *texts: str, verdict: Any = "RETRY") -> None:
    claimed = task.begin("a")
    for sequence, text in enumerate(texts):
        write(task, claimed[0], sequence, text)
    task.record(claimed, verdict)


def test_each_attempt_follows_its_separator(api: ApiClient, engine: Engine) -> None:
    task = stored(engine)
    attempt(task, "one\n", "two\n")
    attempt(task, "no end of line")
    attempt(task)
    live = task.begin("a")
    write(task, live[0], 0, "live\n")

    log = read(api, task)["log"]

    times = [match[1] for match in SEPARATOR.findall(log)]
    starts = [one["startTime"] for one in api.data(f"/instances/{task.id}/subtasks/{task.ids['a']}")["attempts"]]
    assert times == starts
    assert SEPARATOR.sub("=", log) == "=\none\ntwo\n=\nno end of line\n=\n=\nlive\n"
    assert log.startswith(f"############{{EXECUTE}}{{{starts[0]}}}############\n")


def test_a_claim_that_may_be_handed_back_shows_nothing_before_it_writes(api: ApiClient, engine: Engine) -> None:
    task = stored(engine)
    task.begin("a")

    assert read(api, task) == {"log": "", "cursor": "0.-1"}


def test_one_attempt_can_be_asked_for(api: ApiClient, engine: Engine) -> None:
    task = stored(engine)
    attempt(task, "one\n")
    attempt(task, "two\n")

    assert SEPARATOR.sub("=", read(api, task, attempt=2)["log"]) == "=\ntwo\n"
    assert read(api, task, attempt=3)["log"] == ""


@pytest.mark.parametrize(
    ("tail", "expected"),
    [(0, ""), (1, "five\n"), (2, "four\nfive\n"), (3, "=\nfour\nfive\n"), (4, "three\n=\nfour\nfive\n"), (100, None)],
)
def test_the_last_lines_can_be_asked_for(api: ApiClient, engine: Engine, tail: int, expected: str | None) -> None:
    task = stored(engine)
    attempt(task, "one\ntw", "o\nthree\n")
    attempt(task, "four\nfi", "ve\n")
    whole = read(api, task)

    last = read(api, task, tail=tail)

    shown = SEPARATOR.sub("=", last["log"])
    assert shown == ("=\none\ntwo\nthree\n=\nfour\nfive\n" if expected is None else expected)
    assert last["cursor"] == whole["cursor"]


def test_what_is_too_long_for_one_answer_is_read_on(
    api: ApiClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "ANSWER_BYTES", 25)
    task = stored(engine)
    attempt(task, *(f"line {number:04}\n" for number in range(10)))
    parts = [read(api, task)]
    while parts[-1].get("more"):
        parts.append(read(api, task, after=parts[-1]["cursor"]))

    text = "".join(part["log"] for part in parts)

    assert len(parts) > 2
    assert SEPARATOR.sub("=", text) == "=\n" + "".join(f"line {number:04}\n" for number in range(10))
    assert read(api, task, tail=2)["log"] == "line 0008\nline 0009\n"


@pytest.mark.parametrize("cursor", ["x", "1", "1.", "1.-2", "-1.0", "1.2.3", "1.9999999999", "1.0; drop", "٣.٣"])
def test_a_made_up_cursor_is_refused(api: ApiClient, engine: Engine, cursor: str) -> None:
    task = stored(engine)
    response = api.get(f"/instances/{task.id}/subtasks/{task.ids['a']}/log", params={"after": cursor})

    assert (response.status_code, response.json()["error"]["subErrors"][0]["field"]) == (400, "after")


def test_chunks_of_an_attempt_that_nobody_charged_are_shown(api: ApiClient, engine: Engine) -> None:
    task = stored(engine)
    (claimed,) = task.begin("a")
    write(task, claimed, 0, "lost\n")
    following = read(api, task)
    task.hand_back("a", claim=claimed.claim)
    attempt(task, "again\n")

    assert SEPARATOR.sub("=", read(api, task)["log"]) == "=\nlost\n=\nagain\n"
    assert SEPARATOR.sub("=", read(api, task, after=following["cursor"])["log"]) == "=\nagain\n"


STEPS = st.lists(
    st.one_of(
        st.just(("look", "")),
        st.just(("end", "")),
        st.tuples(st.just("write"), st.text(st.sampled_from("ab\n€#"), min_size=1, max_size=6)),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_who_follows_reads_what_who_comes_late_reads(
    api: ApiClient, engine: Engine, steps: list[tuple[str, str]]
) -> None:
    task = stored(engine)
    followed, cursor, live, sequence = "", None, task.begin("a"), 0
    for step, text in [*steps, ("end", ""), ("look", "")]:
        match step:
            case "write":
                write(task, live[0], sequence, text)
                sequence += 1
            case "end":
                task.record(live, "RETRY")
                live, sequence = task.begin("a"), 0
            case _:
                part = read(api, task, **({} if cursor is None else {"after": cursor}))
                followed, cursor = followed + part["log"], part["cursor"]

    assert followed == read(api, task)["log"]
    assert read(api, task, after=cursor)["log"] == ""
    written = "".join(text for _, text in steps)
    assert followed.replace("\n", "").count("€") == written.count("€")


def test_a_chunk_that_was_cut_away_does_not_move_a_cursor(api: ApiClient, engine: Engine) -> None:
    task = stored(engine)
    (claimed,) = task.begin("a")
    for sequence in range(3):
        write(task, claimed, sequence, f"{sequence}\n")
    cursor = read(api, task)["cursor"]
    execute(engine, "DELETE FROM subtask_logs WHERE subtask_id = :id AND sequence > 0", id=task.ids["a"])
    write(task, claimed, 3, "3\n")

    assert read(api, task, after=cursor)["log"] == "3\n"
