"""Which URLs and addresses the allow-list lets callbacks go to."""

from ipaddress import ip_address

import pytest

from schema.callback_hosts import CallbackHosts
from schema.errors import InvalidArgument

HOSTS = CallbackHosts.parse(
    ["hooks.example.com", "Cmdb.Example.com:8080", "cmdb.example.com:8443", "[::1]:9000", "10.1.2.3"]
)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://hooks.example.com/x", "hooks.example.com", 443),
        ("http://HOOKS.example.com.:8123", "hooks.example.com", 8123),
        ("http://cmdb.example.com:8443/", "cmdb.example.com", 8443),
        ("http://[0:0::1]:9000/", "::1", 9000),
    ],
)
def test_a_host_of_the_list_may_be_called(url: str, host: str, port: int) -> None:
    target = HOSTS.check_url(url)

    assert (target.host, target.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/",
        "https://hooks.example.com.evil.com/",
        "https://evil.com/hooks.example.com",
        "https://evil.com#@hooks.example.com",
        "https://user:secret@hooks.example.com/",
        "https://hooks.example.com@evil.com/",
        "https://hooks.example.com\\@evil.com/",
        "http://cmdb.example.com/",
        "http://cmdb.example.com:8081/",
        "http://[::1]/",
        "http://[::1/",
        "http://hooks.example.com:port/",
        "ftp://hooks.example.com/",
        "//hooks.example.com/",
        "https:///path",
        "https://hooks.example.com/a b",
        "https://hooks.exa\tmple.com/",
        "https://hooks.example.com/\r\nX: y",
        "https://hooks.example.com/é",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://0/",
        "",
    ],
)
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        HOSTS.check_url(url)


def test_an_empty_list_allows_nothing() -> None:
    with pytest.raises(InvalidArgument, match="TASKSERVER_CALLBACK_HOSTS"):
        CallbackHosts.parse([]).check_url("http://localhost/")


def test_a_host_with_and_without_port_is_allowed_on_every_port() -> None:
    hosts = CallbackHosts.parse(["a.b:80", "a.b"])

    assert hosts.check_url("http://a.b:1234/").port == 1234


def test_the_query_is_kept_but_not_shown() -> None:
    target = HOSTS.check_url("https://hooks.example.com/x?token=secret")

    assert target.query == "token=secret"
    assert target.shown == "https://hooks.example.com:443/x"


@pytest.mark.parametrize("entry", ["", "http://a.b", "a.b/path", "a.b:port", "u@a.b", "[::1"])
def test_an_entry_that_is_no_host_is_named(entry: str) -> None:
    with pytest.raises(InvalidArgument, match=r"TASKSERVER_CALLBACK_HOSTS.*is not a host"):
        CallbackHosts.parse([entry])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "10.1.2.3", "::ffff:10.1.2.3"])
def test_public_and_listed_addresses_may_be_dialled(address: str) -> None:
    assert HOSTS.allows_address("hooks.example.com", ip_address(address), 443)


def test_an_address_that_is_listed_with_a_port_opens_no_other_port() -> None:
    assert HOSTS.allows_address("hooks.example.com", ip_address("::1"), 9000)
    assert not HOSTS.allows_address("hooks.example.com", ip_address("::1"), 22)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "192.0.0.192",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "fec0::1",
        "fd00::1",
        "ff02::1",
        "::",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "::7f00:1",
        "::ffff:0:127.0.0.1",
        "2001:0:7f00:1::",
    ],
)
def test_a_name_of_the_list_does_not_open_the_inside_of_the_network(address: str) -> None:
    assert not HOSTS.allows_address("hooks.example.com", ip_address(address), 443)


def test_localhost_is_the_loopback_and_no_more() -> None:
    hosts = CallbackHosts.parse(["localhost"])

    assert hosts.allows_address("localhost", ip_address("127.0.0.1"), 80)
    assert hosts.allows_address("localhost", ip_address("::1"), 80)
    assert not hosts.allows_address("localhost", ip_address("10.0.0.1"), 80)
