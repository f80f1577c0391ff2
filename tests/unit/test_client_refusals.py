"""What the client refuses by itself: nothing of it is sent, and nobody is called unreachable."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from schema.errors import InvalidArgument
from taskserver.client import AsyncTaskServer, ServerUnreachable, TaskServer
from tests.scripted_server import ScriptedServer, data, scripted_server

Ask = Callable[[TaskServer], Any]
BLANKS = ("nightly ", " nightly", " ")
NAMES = ("", ".", "..")
BY_NAME: list[Callable[[TaskServer, str], Any]] = [
    lambda server, name: server.definition(name),
    lambda server, name: server.put_definition(name, {}),
    lambda server, name: server.delete_definition(name),
    lambda server, name: server.rotate_principal(name),
    lambda server, name: server.delete_principal(name),
]


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(scripted: ScriptedServer) -> Iterator[TaskServer]:
    with TaskServer(scripted.url, "a-token", patience_seconds=0) as client:
        yield client


@pytest.mark.parametrize("key", BLANKS)
def test_a_key_with_a_blank_at_its_edge_is_refused_and_not_repeated(
    scripted: ScriptedServer, server: TaskServer, key: str
) -> None:
    with pytest.raises(InvalidArgument, match="idempotency key") as refused:
        server.submit(name="x", idempotency_key=key)

    assert refused.value.target == "Idempotency-Key"
    assert scripted.asked == []


@pytest.mark.parametrize("ask", BY_NAME)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_to_another_address_is_refused(
    scripted: ScriptedServer, server: TaskServer, ask: Callable[[TaskServer, str], Any], name: str
) -> None:
    with pytest.raises(InvalidArgument, match="cannot be part of an address"):
        ask(server, name)

    assert scripted.asked == []


def test_dots_within_a_name_are_a_name(scripted: ScriptedServer, server: TaskServer) -> None:
    scripted.answers(data({"name": "a.b", "version": 1}), data({"name": "...", "version": 1}))

    server.definition("a.b")
    server.definition("...")

    assert [one.path.rsplit("/", 1)[1] for one in scripted.asked] == ["a.b", "..."]


@pytest.mark.parametrize(
    "ask",
    [
        lambda server: server.definition("x" * 70_000),
        lambda server: server.definition("\ud800"),
        lambda server: server.tasks(name="\ud800"),
    ],
)
def test_what_http_cannot_carry_is_the_callers_error(scripted: ScriptedServer, server: TaskServer, ask: Ask) -> None:
    with pytest.raises(InvalidArgument, match="cannot be sent"):
        ask(server)

    assert scripted.asked == []


@pytest.mark.parametrize("client", [TaskServer, AsyncTaskServer])
@pytest.mark.parametrize(
    "url", ["http://user:pw@127.0.0.1:1", "http://user@127.0.0.1:1", "ftp://user:pw@h", "http://u:pw@[::1"]
)
def test_an_address_with_a_password_is_refused_and_not_shown(client: type, url: str) -> None:
    with pytest.raises(InvalidArgument, match="give http://HOST:PORT") as refused:
        client(url, "a-token")

    assert "pw" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/?a=b", "http://127.0.0.1:1/#there"])
def test_an_address_with_a_query_is_none(url: str) -> None:
    with pytest.raises(InvalidArgument, match="is not the address of a server"):
        TaskServer(url, "a-token")


@pytest.mark.parametrize("token", ["", " ", "a-token ", " a-token"])
def test_a_token_that_is_empty_or_has_blanks_at_its_edges_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match="token"):
        TaskServer("http://127.0.0.1:1", token)


def test_a_server_that_is_away_is_still_unreachable() -> None:
    with TaskServer("http://127.0.0.1:1", "a-token", patience_seconds=0) as server, pytest.raises(ServerUnreachable):
        server.kinds()
