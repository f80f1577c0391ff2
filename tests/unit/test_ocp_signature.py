"""What a signed request is checked against: the texts that clients of OCP sign, and what is refused before."""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from schema.errors import Unauthenticated
from taskserver.api import ocp_signature
from taskserver.api.ocp_signature import SCHEME, Signature, signature_of
from taskserver.principals import Tokens
from taskserver.queries.principals import PrincipalRow

TOKENS = Tokens("a secret key")
ALICE = PrincipalRow("alice", "TASK_VIEWER", "0", 1, datetime.now(UTC))
TOKEN = TOKENS.token("alice", 1)
ANY = base64.b64encode(bytes(20)).decode()
# The address and the query of the worked example in OCP's manual.
EXAMPLE_PATH = "/api/v2/monitor/top"
EXAMPLE_QUERY = (
    "metrics=host_disk_total&labels=svr_ip:127.0.0.1&groupBy=app,svr_ip,device,mount_point"
    "&startTime=2024-04-15T14:29:55%2B08:00&endTime=2024-04-15T14:30:55%2B08:00&maxPoints=360"
)


def now(minutes: float = 0) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)


def request(method: str = "GET", path: str = "/p", query: str = "", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": raw}
    return Request({**scope, "query_string": query.encode()})


def found(asked: Request, body: bytes = b"") -> Signature | None:
    async def read() -> bytes:
        return body

    return asyncio.run(signature_of(asked, read))


def signed(text: str, token: str = TOKEN, name: str = "alice") -> str:
    digest = hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()
    return f"{SCHEME} {name}:{base64.b64encode(digest).decode()}"


def taken(text: str, asked: Mapping[str, str], body: bytes = b"", **address: str) -> bool:
    """Tell whether a request with these headers is taken when that text was signed."""
    signature = found(request(**address, **asked, authorization=signed(text)), body)
    assert signature is not None
    return signature.is_by(ALICE, TOKENS)


def refusal(asked: Request) -> str:
    with pytest.raises(Unauthenticated) as caught:
        found(asked)
    return caught.value.message


def test_the_manuals_worked_example_gives_the_manuals_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocp_signature, "WINDOW", timedelta(days=365_000))
    secret = Tokens("unused", admin_token="d75332c5eed8d440a84a35ac6248d397")
    admin = PrincipalRow("admin", "ADMIN", "0", 1, datetime.now(UTC))
    asked = request(
        "GET",
        EXAMPLE_PATH,
        EXAMPLE_QUERY,
        authorization=f"{SCHEME} admin:To11kg1EsB/dPWyDnnpuUzIUoQk=",
        date="Mon, 15 Apr 2024 09:25:02 GMT",
        host="127.0.0.1:8080",
        content_type="application/json",
        x_ocp_origin="for-test",
    )

    signature = found(asked)

    assert signature is not None
    assert signature.is_by(admin, secret)
    assert not signature.is_by(admin, Tokens("unused", admin_token="d75332c5eed8d440a84a35ac6248d398"))


def test_without_body_type_headers_and_query_their_places_are_empty() -> None:
    date = now()

    assert taken(f"POST\n\n\n{date}\nh:1\n\n/p", {"date": date, "host": "h:1"}, method="POST")


def test_the_body_is_signed_by_its_md5_in_capitals_or_small_letters() -> None:
    date, body = now(), b'{"reason": "x"}'
    digest = hashlib.md5(body).hexdigest()
    headers = {"date": date, "host": "h", "content_type": "application/json"}

    def is_taken(md5: str) -> bool:
        return taken(f"POST\n{md5}\napplication/json\n{date}\nh\n\n/p", headers, body, method="POST")

    nothing = hashlib.md5(b"").hexdigest()
    assert is_taken(digest.upper())
    assert is_taken(digest)
    assert [is_taken(other) for other in ("", nothing, nothing.upper(), digest.capitalize())] == [False] * 4


@pytest.mark.parametrize("md5", ["", "D41D8CD98F00B204E9800998ECF8427E", "d41d8cd98f00b204e9800998ecf8427e"])
def test_no_body_is_signed_as_nothing_or_as_the_md5_of_nothing(md5: str) -> None:
    date = now()

    assert taken(f"GET\n{md5}\n\n{date}\nh\n\n/p", {"date": date, "host": "h"})


def test_ocps_headers_are_sorted_and_others_are_not_signed() -> None:
    date = now()
    headers = {"date": date, "host": "h", "x_ocp_b": "2", "x_trace_id": "t", "x_ocp_a": "1", "accept": "*/*"}

    assert taken(f"GET\n\n\n{date}\nh\nx-ocp-a:1\nx-ocp-b:2\n/p", headers)
    assert not taken(f"GET\n\n\n{date}\nh\nx-ocp-b:2\nx-ocp-a:1\n/p", headers)
    assert not taken(f"GET\n\n\n{date}\nh\n\n/p", headers)


@pytest.mark.parametrize(
    ("query", "signed_as"),
    [
        ("status=RUNNING,FAILED&name=a", "name=a&status=RUNNING%2CFAILED"),
        ("name=a+b", "name=a+b"),
        ("name=a+b", "name=a%20b"),
        ("name=a%20b", "name=a+b"),
        ("name=a~b*c", "name=a%7Eb*c"),
        ("name=a~b*c", "name=a~b%2Ac"),
        ("name=%E4%BB%BB", "name=%E4%BB%BB"),
        ("name=", "name="),
        ("name", "name="),
        ("b=2&a=2&a=1", "a=2&a=1&b=2"),
    ],
)
def test_a_query_is_signed_sorted_and_escaped_in_either_published_way(query: str, signed_as: str) -> None:
    date = now()

    assert taken(f"GET\n\n\n{date}\nh\n\n/p?{signed_as}", {"date": date, "host": "h"}, query=query)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_any_query_can_be_signed(parameters: dict[str, str]) -> None:
    date, query = now(), urlencode(sorted(parameters.items()))
    query_signed = f"?{query}" if query else ""
    text = f"GET\n\n\n{date}\nh\n\n/p{query_signed}".replace("%2A", "*").replace("~", "%7E")

    assert taken(text, {"date": date, "host": "h"}, query=query)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "POST"},
        {"path": "/q"},
        {"query": "a=1"},
        {"host": "other"},
        {"content_type": "text/plain"},
        {"x_ocp_origin": "x"},
    ],
)
def test_whatever_else_is_asked_was_not_signed(change: dict[str, str]) -> None:
    date = now()
    asked = {"date": date, "host": "h", **change}

    assert not taken(f"GET\n\n\n{date}\nh\n\n/p", asked)


def test_a_signature_of_another_token_or_an_earlier_serial_is_nobodys() -> None:
    date = now()
    text = f"GET\n\n\n{date}\nh\n\n/p"
    signature = found(request(date=date, host="h", authorization=signed(text)))

    assert signature is not None
    assert signature.owner(TOKENS) == "alice"
    assert not signature.is_by(PrincipalRow("alice", "TASK_VIEWER", "0", 2, datetime.now(UTC)), TOKENS)
    assert not signature.is_by(PrincipalRow("bob", "TASK_VIEWER", "0", 1, datetime.now(UTC)), TOKENS)


def test_the_time_may_come_in_ocps_own_header() -> None:
    date = now()

    assert taken(f"GET\n\n\n{date}\nh\nx-ocp-date:{date}\n/p", {"x_ocp_date": date, "host": "h"})


@pytest.mark.parametrize("minutes", [-14.9, 14.9])
def test_a_near_date_is_taken(minutes: float) -> None:
    assert found(request(date=now(minutes), authorization=f"{SCHEME} alice:{ANY}")) is not None


def test_a_day_of_one_digit_is_taken_as_java_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocp_signature, "WINDOW", timedelta(days=365_000))

    assert found(request(date="Tue, 3 Jan 2023 03:36:01 GMT", authorization=f"{SCHEME} alice:{ANY}")) is not None


@pytest.mark.parametrize(
    ("date", "said"),
    [
        (None, "no Date"),
        ("", "no Date"),
        ("2026-01-01T00:00:00Z", "RFC 1123"),
        ("Tue, 17 Jan 2023 03:36:01", "RFC 1123"),
        ("Tue, 17 Xyz 2023 03:36:01 GMT", "RFC 1123"),
        ("Tue, 17 Jan 2023 25:36:01 GMT", "RFC 1123"),
        ("Tue, 17 Jan 2023 03:36:01 +9999", "RFC 1123"),
        ("Tue, 17 Jan 2023 03:36:01 GMT", "15 minutes"),
        ("Tue, 17 Jan 9999 03:36:01 -2359", "15 minutes"),
        ("Tue, 17 Jan 2023 03:36:01 -0000", "15 minutes"),
        (-16, "15 minutes"),
        (16, "15 minutes"),
    ],
)
def test_a_date_that_is_missing_unreadable_or_far_is_refused_with_the_reason(date: str | int | None, said: str) -> None:
    headers = {} if date is None else {"date": now(date) if isinstance(date, int) else date}

    assert said in refusal(request(authorization=f"{SCHEME} alice:{ANY}", **headers))


@given(st.from_regex(ocp_signature._DATE, fullmatch=True))
def test_any_date_is_taken_or_refused(date: str) -> None:
    try:
        found(request(date=date, authorization=f"{SCHEME} alice:{ANY}"))
    except Unauthenticated as error:
        assert "Date" in error.message  # noqa: PT017 - some are near


@pytest.mark.parametrize(
    "credential",
    [
        SCHEME,
        f"{SCHEME} ",
        f"{SCHEME} alice",
        f"{SCHEME} alice:",
        f"{SCHEME} :{ANY}",
        f"{SCHEME} al ice:{ANY}",
        f"{SCHEME} alice:{ANY}x",
        f"{SCHEME} alice:{'0' * 40}",
        f"OCP-ACCESS-KEY-HMACSHA256 alice:{ANY}",
    ],
)
def test_another_form_is_refused_naming_the_right_one_and_echoing_nothing(credential: str) -> None:
    said = refusal(request(date=now(), authorization=credential))

    assert f"{SCHEME} NAME:SIGNATURE" in said
    assert "alice" not in said


@pytest.mark.parametrize("credential", ["", "Bearer x", "Basic x", "OCP-ACCESS-KEY"])
def test_other_schemes_are_left_to_others(credential: str) -> None:
    assert found(request(date=now(), authorization=credential)) is None
    assert found(request(date=now())) is None


def test_the_body_is_not_read_before_form_and_date_are_right() -> None:
    async def read() -> bytes:
        raise AssertionError("the body was read")

    for asked in (
        request(date=now(-20), authorization=f"{SCHEME} alice:{ANY}"),
        request(date=now(), authorization=f"{SCHEME} alice:x"),
    ):
        with pytest.raises(Unauthenticated):
            asyncio.run(signature_of(asked, read))


def test_bodies_are_read_in_one_place_which_keeps_them_for_the_call() -> None:
    product = Path(ocp_signature.__file__).parents[1]
    reading = re.compile(r"request\.(stream|body|json|form)\(")

    readers = [str(file.relative_to(product)) for file in product.rglob("*.py") if reading.search(file.read_text())]

    assert readers == ["api/bodies.py"]
