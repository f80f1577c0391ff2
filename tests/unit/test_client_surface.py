"""The shape of the client: what it exports, and that its two faces are one."""

import inspect
import subprocess
import sys
from importlib.resources import files

import pytest

from schema.documents.specification import Submission
from schema.errors import InvalidArgument, TaskserverError
from schema.errors import NotFound as AnyNotFound
from taskserver import client
from taskserver.api.parameters import ListQuestion
from taskserver.client import (
    AsyncSubtaskHandle,
    AsyncTask,
    AsyncTaskServer,
    NotFound,
    ServerUnreachable,
    SubmissionMembers,
    SubtaskHandle,
    Task,
    TaskFilters,
    TaskServer,
)

FACES = [(TaskServer, AsyncTaskServer), (Task, AsyncTask), (SubtaskHandle, AsyncSubtaskHandle)]


def public(kind: type) -> dict[str, inspect.Signature | None]:
    members = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    return {name: inspect.signature(member) for name, member in members.items() if callable(member)}


@pytest.mark.parametrize(("blocking", "awaiting"), FACES)
def test_both_faces_have_the_same_calls_with_the_same_parameters(blocking: type, awaiting: type) -> None:
    one, other = public(blocking), public(awaiting)

    assert set(one) == set(other)
    assert {name: list(found.parameters.values()) for name, found in one.items() if found} == {
        name: list(found.parameters.values()) for name, found in other.items() if found
    }


@pytest.mark.parametrize("kind", [face for faces in FACES for face in faces])
def test_every_call_says_what_it_does(kind: type) -> None:
    undocumented = [name for name in public(kind) if not getattr(kind, name).__doc__]

    assert undocumented == []


def test_the_blocking_faces_await_nothing() -> None:
    awaited = [name for face, _ in FACES for name in public(face) if inspect.iscoroutinefunction(getattr(face, name))]

    assert awaited == []


def test_what_is_exported_is_what_is_named() -> None:
    exported = {name for name, value in vars(client).items() if inspect.isclass(value)} | {"Document"}

    assert exported == set(client.__all__)


def test_a_submission_takes_every_member_of_the_document() -> None:
    assert set(SubmissionMembers.__annotations__) == set(Submission.model_fields)


def test_the_list_takes_every_filter_of_the_api() -> None:
    misspelled = {"cluter_name"}

    assert set(TaskFilters.__annotations__) == set(ListQuestion.model_fields) - misspelled


def test_an_error_over_http_is_caught_like_the_same_error_in_process() -> None:
    assert issubclass(NotFound, AnyNotFound)
    assert issubclass(ServerUnreachable, TaskserverError)


def test_handles_say_where_they_lead() -> None:
    with TaskServer("http://127.0.0.1:1/", "secret") as server:
        task = server.task(7)

        shown = [repr(server), repr(task), repr(task.subtask("a"))]

    assert shown == [
        "<TaskServer at http://127.0.0.1:1>",
        "<Task 7 at http://127.0.0.1:1>",
        "<SubtaskHandle 'a' of task 7 at http://127.0.0.1:1>",
    ]


def test_the_client_of_the_settings_is_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSERVER_URL", "http://127.0.0.1:1234")
    monkeypatch.setenv("TASKSERVER_TOKEN", "t")

    with TaskServer.from_settings() as server:
        assert server.url == "http://127.0.0.1:1234"


def test_settings_without_an_address_say_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.delenv("TASKSERVER_URL", raising=False)
    monkeypatch.delenv("TASKSERVER_TOKEN", raising=False)

    with pytest.raises(ServerUnreachable, match="TASKSERVER_URL and TASKSERVER_TOKEN"):
        AsyncTaskServer.from_settings()


def test_a_url_without_a_token_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("TASKSERVER_URL", "http://127.0.0.1:1234")
    monkeypatch.delenv("TASKSERVER_TOKEN", raising=False)

    with pytest.raises(InvalidArgument, match="TASKSERVER_TOKEN is not set"):
        TaskServer.from_settings()


def test_importing_the_client_brings_no_server_along() -> None:
    code = "import sys, taskserver.client; print(*{one.partition('.')[0] for one in sys.modules})"

    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not set(imported) & {"sqlalchemy", "celery", "fastapi", "kombu", "redis", "psycopg", "pydantic_settings"}


@pytest.mark.parametrize("package", ["taskserver", "schema"])
def test_type_checkers_are_told_of_the_types(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()
