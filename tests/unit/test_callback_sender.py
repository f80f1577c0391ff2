"""The sender against receivers, names and resolvers that mean it ill."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from schema.callback_hosts import CallbackHosts
from schema.signing import signing_key
from tests.receiver import receiving
from workers.callback_sender import MAX_RESPONSE_BYTES, CallbackFailed, CallbackSender, NotDelivered
from workers.failures import Cancelled

MOST_SECONDS = 5  # far more than any of these may take, and far less than what the enemy would take


def sender(*hosts: str) -> CallbackSender:
    return CallbackSender(CallbackHosts.parse(hosts), key=signing_key("the secret key of this test"))


@contextmanager
def talking(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Accept one connection and talk on it, until the block ends; give host and port."""
    over = threading.Event()

    def accept(listener: socket.socket) -> None:
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue  # the sender may never come, and then the block ends
            with connection, suppress(OSError):  # the sender may leave
                talk(connection, over)

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.05)
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def read_slowly(connection: socket.socket, over: threading.Event) -> None:
    while not over.wait(0.02) and connection.recv(512):
        pass


def say_nothing(_: socket.socket, over: threading.Event) -> None:
    over.wait()


def drip(connection: socket.socket, over: threading.Event) -> None:
    while not over.wait(0.02):
        connection.sendall(b"H")


def continue_for_ever(connection: socket.socket, over: threading.Event) -> None:
    while not over.wait(0.005):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def send_headers_for_ever(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.is_set():
        connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")


def send_a_body_for_ever(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not over.is_set():
        connection.sendall(b"400\r\n" + b"x" * 0x400 + b"\r\n")


@pytest.mark.parametrize("talk", [read_slowly, say_nothing, drip, continue_for_ever])
def test_whoever_takes_their_time_is_given_up_at_the_deadline(
    talk: Callable[[socket.socket, threading.Event], None],
) -> None:
    payload = "x" * 8_000_000
    began = time.monotonic()

    with talking(talk) as netloc, pytest.raises(NotDelivered, match="time"):
        sender(netloc).send(f"http://{netloc}/", payload, delivery="a", timeout_seconds=1)

    assert time.monotonic() - began < MOST_SECONDS


def test_headers_without_end_are_not_gathered() -> None:
    with talking(send_headers_for_ever) as netloc, pytest.raises(NotDelivered):
        sender(netloc).send(f"http://{netloc}/", 1, delivery="a", timeout_seconds=30)


def test_of_a_body_without_end_only_the_beginning_is_read() -> None:
    with talking(send_a_body_for_ever) as netloc:
        answer = sender(netloc).send(f"http://{netloc}/", 1, delivery="a", timeout_seconds=30)

    assert (len(answer.body), answer.is_cut) == (MAX_RESPONSE_BYTES, True)


@pytest.mark.parametrize("talk", [read_slowly, say_nothing, drip, continue_for_ever])
def test_an_exchange_is_given_up_soon_after_it_is_asked_to_stop(
    talk: Callable[[socket.socket, threading.Event], None],
) -> None:
    asked = threading.Event()

    def watch() -> None:
        if asked.is_set():
            raise Cancelled("asked to stop")

    threading.Timer(0.3, asked.set).start()
    began = time.monotonic()
    with talking(talk) as netloc, pytest.raises(Cancelled):
        sender(netloc).send(f"http://{netloc}/", "x" * 8_000_000, delivery="a", timeout_seconds=60, watch=watch)

    assert time.monotonic() - began < MOST_SECONDS


def test_a_resolver_that_does_not_answer_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        over.wait()
        return []

    monkeypatch.setattr("workers.callback_connection.getaddrinfo", hang)
    began = time.monotonic()
    with pytest.raises(NotDelivered, match="time"):
        sender("slow.example.com").send("http://slow.example.com/", 1, delivery="a", timeout_seconds=0.5)
    over.set()

    assert time.monotonic() - began < MOST_SECONDS


def _leading_to(*addresses: str) -> Callable[..., list[object]]:
    return lambda _host, port, **_: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]


def test_a_name_that_leads_to_a_listed_address_opens_only_the_port_that_is_listed_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.callback_connection.getaddrinfo", _leading_to("127.0.0.1"))

    with receiving() as receiver:
        port = receiver.server_address[1]
        with pytest.raises(CallbackFailed, match="inside the network") as caught:
            sender("hooks.example.com", f"127.0.0.1:{port + 1}").send(
                f"http://hooks.example.com:{port}/", 1, delivery="a", timeout_seconds=5
            )

    assert not isinstance(caught.value, NotDelivered)
    assert receiver.received == []


def test_of_several_addresses_only_those_that_may_be_called_are_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.callback_connection.getaddrinfo", _leading_to("127.0.0.2", "127.0.0.1"))

    with receiving() as receiver:
        port = receiver.server_address[1]
        hosts = ("hooks.example.com", "127.0.0.1")
        answer = sender(*hosts).send(f"http://hooks.example.com:{port}/", 1, delivery="a", timeout_seconds=5)

    assert answer.status == 200


@pytest.mark.parametrize(
    "spelling", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]"]
)
def test_other_spellings_of_this_machine_are_not_called_even_where_they_are_listed_as_names(spelling: str) -> None:
    with receiving() as receiver:
        port = receiver.server_address[1]
        listed = spelling if spelling[:1] != "[" and spelling != "0.0.0.0" else "hooks.example.com"
        with pytest.raises(Exception, match="TASKSERVER_CALLBACK_HOSTS") as caught:
            sender(listed).send(f"http://{spelling}:{port}/", 1, delivery="a", timeout_seconds=5)

    assert not isinstance(caught.value, NotDelivered)
    assert receiver.received == []


def test_names_of_headers_go_out_as_they_are() -> None:
    with receiving() as receiver:
        sender(receiver.netloc).send(
            receiver.url, 1, delivery="a", timeout_seconds=5, headers={"BK_User": "admin", "Cc_Request_Id": "7"}
        )

    assert {"BK_User", "Cc_Request_Id"} <= receiver.received[0].headers.keys()
