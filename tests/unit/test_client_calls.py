"""What the client asks, and what it makes of the answers; over a real connection."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from schema.errors import InvalidArgument
from taskserver.client import (
    DuplicateInstance,
    Forbidden,
    IdempotencyKeyReused,
    InvalidRequest,
    InvalidSubmission,
    NotFound,
    RateLimited,
    RequestTooLarge,
    RollbackProhibited,
    ServerRefused,
    TaskServer,
    Unauthenticated,
    WrongState,
)
from tests.scripted_server import (
    Answer,
    ScriptedServer,
    data,
    detail,
    error,
    failed,
    page,
    scripted_server,
    status,
    subtask,
)

PREFIX = "/api/v2/tasks"
PLAN = {"fragments": [], "mermaid": "flowchart"}
DEFINITION = {"name": "a/b", "version": 2, "subtasks": []}
PRINCIPAL = {"name": "x", "role": "ADMIN", "account": "0"}


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(scripted: ScriptedServer) -> Iterator[TaskServer]:
    with TaskServer(scripted.url, "a-token", patience_seconds=0) as client:
        yield client


Ask = Callable[[TaskServer], Any]
READS: list[tuple[Ask, str, Any]] = [
    (lambda server: server.task(7).status(), "/instances/7/status", status()),
    (lambda server: server.task(7).detail(), "/instances/7", detail()),
    (lambda server: server.task(7).plan(), "/instances/7/plan", PLAN),
    (lambda server: server.task(7).operations(), "/instances/7/operations", {"contents": []}),
    (lambda server: server.task(7).subtask(70).detail(), "/instances/7/subtasks/70", subtask()),
    (lambda server: server.task(7).subtask(70).log(), "/instances/7/subtasks/70/log", {"log": "", "cursor": "1.0"}),
    (lambda server: server.kinds(), "/kinds", {"contents": [{"name": "builtin.noop"}]}),
    (lambda server: server.workers(), "/workers", {"contents": [{"name": "w"}]}),
    (lambda server: server.definitions(), "/definitions", {"contents": [DEFINITION]}),
    (lambda server: server.definition("a/b"), "/definitions/a%2Fb", DEFINITION),
    (lambda server: server.principals(), "/principals", {"contents": [PRINCIPAL]}),
]
VERBS: list[tuple[Ask, str, Any, Any]] = [
    *(
        (
            lambda server, verb=verb: getattr(server.task(7), verb)(reason="why"),
            f"/instances/7/{verb}",
            {"reason": "why"},
            detail(),
        )
        for verb in ("retry", "rollback", "cancel", "pause", "resume", "abandon")
    ),
    *(
        (
            lambda server, verb=verb: getattr(server.task(7).subtask(70), verb)(),
            f"/instances/7/subtasks/70/{verb}",
            None,
            subtask(),
        )
        for verb in ("retry", "skip", "cancel")
    ),
    (
        lambda server: server.task(7).subtask(70).signal({"by": "me"}, approve=False),
        "/instances/7/subtasks/70/signal",
        {"payload": {"by": "me"}, "approve": False},
        subtask(),
    ),
    (
        lambda server: server.retry_tasks([7, 8], reason="why"),
        "/instances/retry",
        {"ids": [7, 8], "reason": "why"},
        {"contents": [{"id": 7, "successful": True}]},
    ),
    (
        lambda server: server.retry_tasks(filter={"creator": "cron"}),
        "/instances/retry",
        {"filter": {"creator": "cron"}},
        {"contents": []},
    ),
]


@pytest.mark.parametrize(("ask", "path", "answer"), READS)
def test_a_read_asks_for_its_path_with_the_token(
    scripted: ScriptedServer, server: TaskServer, ask: Ask, path: str, answer: Any
) -> None:
    scripted.answers(data(answer))

    ask(server)

    [asked] = scripted.asked
    assert (asked.method, asked.path, asked.query, asked.body) == ("GET", PREFIX + path, {}, None)
    assert asked.headers["authorization"] == "Bearer a-token"


@pytest.mark.parametrize(("ask", "path", "body", "answer"), VERBS)
def test_a_verb_is_a_post_with_a_key_of_its_own(  # noqa: PLR0917 - two servers and a row of the table
    scripted: ScriptedServer, server: TaskServer, ask: Ask, path: str, body: Any, answer: Any
) -> None:
    scripted.answers(data(answer), data(answer))

    ask(server)
    ask(server)

    first, second = scripted.asked
    assert (first.method, first.path, first.body) == ("POST", PREFIX + path, body)
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


def test_a_verb_takes_the_callers_key(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data(detail()), data(subtask()))

    server.task(7).cancel(idempotency_key="stop it")
    server.task(7).subtask(70).skip(idempotency_key="leave it")

    assert [one.headers["idempotency-key"] for one in scripted.asked] == ["stop it", "leave it"]


def test_a_verb_that_answers_nothing_is_followed_by_a_look(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data(None), data(subtask("b", state="SUCCESSFUL")))

    skipped = server.task(7).subtask(70).skip()

    assert (skipped.key, skipped.status) == ("b", "SUCCESSFUL")


def test_a_submission_is_a_document_and_members_over_it(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data(detail(), status=201))

    task = server.submit(
        {"name": "before", "extra": "kept"},
        name="after",
        definition="prepare_host",
        instance_id=42,
        on_duplicate="return",
        start_at=datetime(2026, 12, 1, tzinfo=UTC),
        deadline_seconds=None,
        idempotency_key="nightly",
    )

    [asked] = scripted.asked
    assert asked.path == f"{PREFIX}/instances"
    assert asked.headers["idempotency-key"] == "nightly"
    assert asked.body == {
        "name": "after",
        "extra": "kept",
        "definition": "prepare_host",
        "instanceId": 42,
        "onDuplicate": "return",
        "startAt": "2026-12-01T00:00:00+00:00",
    }
    assert (task.id, task.task_id) == (7, f"{7:032x}")


def test_a_batch_is_answered_by_handles_in_its_order(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data([detail(task=9), detail(task=8)], status=201))

    tasks = server.submit_batch([{"definition": "a"}, {"definition": "b"}], idempotency_key="all")

    [asked] = scripted.asked
    assert (asked.path, asked.body) == (f"{PREFIX}/instances/batch", [{"definition": "a"}, {"definition": "b"}])
    assert asked.headers["idempotency-key"] == "all"
    assert [one.id for one in tasks] == [9, 8]


def test_the_list_takes_filters_in_snake_case_and_is_iterated_over(
    scripted: ScriptedServer, server: TaskServer
) -> None:
    row = {**status("FAILED"), "name": "one"}
    numbers = {"totalElements": 1, "totalPages": 1, "number": 1, "size": 5}
    scripted.answers(data({"contents": [row], "page": numbers}))

    found = server.tasks(
        {"size": 9, "sort": "id,asc"}, state="FAILED", created_after=datetime(2026, 1, 1, tzinfo=UTC), size=5
    )

    assert scripted.asked[0].query == {
        "size": "5",
        "sort": "id,asc",
        "state": "FAILED",
        "createdAfter": "2026-01-01T00:00:00+00:00",
    }
    assert [one.name for one in found] == ["one"]
    assert len(found) == 1


def test_any_number_of_statuses_is_asked_for_in_parts(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(
        data({"contents": [status(task=1)], "missing": [2]}), data({"contents": [status(task=201)], "missing": []})
    )

    found = server.statuses(range(1, 251))

    assert [len(one.query["ids"].split(",")) for one in scripted.asked] == [200, 50]
    assert [one.id for one in found.contents] == [1, 201]
    assert found.missing == [2]


def test_definitions_are_stored_read_and_removed_by_name(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data(DEFINITION, status=201), data(DEFINITION), data(None))

    stored = server.put_definition("a/b", {"subtasks": []})
    read = server.definition("a/b", version=2)
    server.delete_definition("a/b")

    assert stored == read
    assert read.document["subtasks"] == []
    assert [(one.method, one.query, one.body) for one in scripted.asked] == [
        ("PUT", {}, {"subtasks": []}),
        ("GET", {"version": "2"}, None),
        ("DELETE", {}, None),
    ]


def test_a_log_is_read_to_its_end_however_long(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data({"log": "one\n", "cursor": "5.0", "more": True}), data({"log": "two\n", "cursor": "5.1"}))

    log = server.task(7).subtask(70).log(attempt=2)

    assert log == "one\ntwo\n"
    assert [one.query for one in scripted.asked] == [{"attempt": "2"}, {"attempt": "2", "after": "5.0"}]


def test_a_subtask_is_found_by_its_key_once(scripted: ScriptedServer, server: TaskServer) -> None:
    found = subtask("mount[0]", id_=71)
    scripted.answers(data({"contents": [found]}), data(found), data(found))
    mount = server.task(7).subtask("mount[0]")

    mount.detail()
    mount.detail()

    paths = [one.path.removeprefix(PREFIX) for one in scripted.asked]
    assert paths == ["/instances/7/subtasks", "/instances/7/subtasks/71", "/instances/7/subtasks/71"]
    assert scripted.asked[0].query == {"key": "mount[0]"}


@pytest.mark.parametrize("refusal", [error(404, 20000, "no such path"), error(405, 10001, "no such method")])
def test_a_server_that_cannot_look_keys_up_is_asked_for_the_detail(
    scripted: ScriptedServer, server: TaskServer, refusal: Answer
) -> None:
    scripted.answers(refusal, data(detail(keys=["a", "mount[0]"])), data(subtask("mount[0]", id_=71)))

    server.task(7).subtask("mount[0]").detail()

    paths = [one.path.removeprefix(PREFIX) for one in scripted.asked]
    assert paths == ["/instances/7/subtasks", "/instances/7", "/instances/7/subtasks/71"]


def test_a_refusal_of_the_lookup_is_told_as_it_is(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(error(403, 30014, "the reason"))

    with pytest.raises(Forbidden, match="the reason"):
        server.task(7).subtask("a").detail()

    assert len(scripted.asked) == 1


def test_digits_are_an_id_or_else_a_key(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(
        error(404, 20000, "no such subtask"),
        data({"contents": [subtask("12")]}),
        data(subtask("12")),
        data(subtask(id_=13)),
        data(subtask(id_=13)),
    )

    by_key = server.task(7).subtask("12").detail()
    by_id = server.task(7).subtask("13").detail()

    assert (by_key.id, by_id.id) == (70, 13)


def test_an_unknown_key_is_not_found_and_named(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data({"contents": []}))

    with pytest.raises(NotFound, match="task 7 has no subtask 'b'") as refused:
        server.task(7).subtask("b").log()

    assert (refused.value.http_status, refused.value.error_code) == (404, 20000)


@pytest.mark.parametrize(
    ("http_status", "code", "kind"),
    [
        (404, 20000, NotFound),
        (400, 20001, InvalidSubmission),
        (400, 20003, WrongState),
        (400, 20004, RollbackProhibited),
        (409, 20005, DuplicateInstance),
        (409, 20006, IdempotencyKeyReused),
        (400, 10001, InvalidRequest),
        (413, 10002, RequestTooLarge),
        (401, 30001, Unauthenticated),
        (403, 30014, Forbidden),
        (429, 10004, RateLimited),
        (418, 4711, ServerRefused),
    ],
)
def test_each_code_has_its_error_and_a_new_one_is_a_refusal(
    scripted: ScriptedServer, server: TaskServer, http_status: int, code: int, kind: type[ServerRefused]
) -> None:
    scripted.answers(error(http_status, code, "the reason"))

    with pytest.raises(ServerRefused, match="the reason") as refused:
        server.task(7).retry()

    assert type(refused.value) is kind
    assert (refused.value.http_status, refused.value.error_code) == (http_status, code)
    assert len(scripted.asked) == 1


def test_wrong_fields_are_told_one_by_one(scripted: ScriptedServer, server: TaskServer) -> None:
    sub_errors = [{"field": "/name", "message": "is too long", "rejectedValue": "x"}]
    failure = {"code": 10001, "type": "InvalidArgument", "message": "m", "target": "/name", "subErrors": sub_errors}
    scripted.answers(failed(400, failure))

    with pytest.raises(InvalidRequest) as refused:
        server.submit(name="x" * 1000)

    [sub_error] = refused.value.sub_errors
    assert (sub_error.field, sub_error.message, sub_error.rejected_value) == ("/name", "is too long", "x")


def test_somebody_elses_server_is_told_by_its_address(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(page("<h1>It works</h1>"))

    with pytest.raises(ServerRefused, match="not as a taskserver: check TASKSERVER_URL"):
        server.kinds()


def test_what_a_newer_server_adds_is_in_the_document(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data({**detail(), "novelty": {"of": "tomorrow"}}))

    found = server.task(7).detail()

    assert found.document["novelty"] == {"of": "tomorrow"}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda server: server.submit(name="x", start_at=datetime(2026, 1, 1)), "start_at has no time zone"),  # noqa: DTZ001
        (lambda server: server.submit({"arguments": {"when": datetime.now(UTC)}}), "cannot be written as JSON"),
        (lambda server: server.submit({"arguments": {"much": float("nan")}}), "cannot be written as JSON"),
        (lambda server: server.submit(name="x", idempotency_key=""), "idempotency key"),
        (lambda server: server.submit(name="x", idempotency_key="a\nb"), "idempotency key"),
        (lambda server: server.submit(name="x", idempotency_key="k" * 256), "idempotency key"),
        (lambda server: server.retry_tasks(), "either the ids of the tasks or a filter"),
        (lambda server: server.retry_tasks([1], filter={}), "either the ids of the tasks or a filter"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is(
    scripted: ScriptedServer, server: TaskServer, ask: Ask, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        ask(server)

    assert scripted.asked == []


def test_a_member_that_does_not_exist_is_named(server: TaskServer) -> None:
    with pytest.raises(TypeError, match="there is no 'instanceid': it takes definition"):
        server.submit(instanceid=3)  # type: ignore[call-arg]


def test_a_token_with_a_line_end_is_refused_at_once() -> None:
    with pytest.raises(InvalidArgument, match="line end"):
        TaskServer("http://127.0.0.1:1", "a-token\n")
