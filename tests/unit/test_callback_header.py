"""Which headers of a request a callback task keeps."""

import pytest

from schema.errors import InvalidArgument
from taskserver.callback_header import completed_header, request_id, stored_header
from taskserver.new_rows import Submitter

SUBMITTER = Submitter("sync", "acme", trace_id="trace-1")
SECRETS = {
    "Authorization": "Bearer t",
    "X-Bkapi-Authorization": "{}",
    "X-Bkapi-JWT": "jwt",
    "X-Bkcmdb-User-Token": "t",
    "X-Bkcmdb-User-Ticket": "t",
    "Cookie": "bk_token=t",
    "BK-Secrets-Token": "t",
    "X-Bkcmdb-Is-Inner-Request": "true",
    "Idempotency-Key": "k",
    "X-Custom": "x",
}


def test_what_tells_who_asked_is_kept_under_its_own_name() -> None:
    given = {"bk_user": "admin", "HTTP_BLUEKING_LANGUAGE": "cn", "cc_request_id": " cc0001 ", "x-real-ip": "10.0.0.9"}

    kept = stored_header(given)

    assert kept == {
        "BK_User": "admin",
        "HTTP_BLUEKING_LANGUAGE": "cn",
        "Cc_Request_Id": "cc0001",
        "X-Real-Ip": "10.0.0.9",
    }


def test_nothing_is_kept_that_proves_or_grants_anything() -> None:
    assert stored_header(SECRETS) == {}


def test_an_empty_header_is_left_out() -> None:
    assert stored_header({"BK_User": "", "X-Bkcmdb-Language": "  "}) == {}


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "é", "a\x00b", "x" * 513])
def test_a_value_that_cannot_be_sent_again_is_refused_and_named(value: str) -> None:
    with pytest.raises(InvalidArgument, match="BK_User"):
        stored_header({"bk_user": value})


def test_what_is_kept_can_be_kept_again() -> None:
    kept = completed_header({"BK_User": "admin", **SECRETS}, SUBMITTER)

    assert stored_header(kept) == kept


def test_account_user_and_request_id_are_filled_in_for_receivers_of_either_generation() -> None:
    assert completed_header({}, SUBMITTER) == {
        "X-Bkcmdb-Supplier-Account": "acme",
        "HTTP_BLUEKING_SUPPLIER_ID": "acme",
        "X-Bkcmdb-User": "sync",
        "BK_User": "sync",
        "X-Bkapi-Request-Id": "trace-1",
        "Cc_Request_Id": "trace-1",
    }


def test_user_and_request_id_that_were_given_stay_as_they_are() -> None:
    kept = completed_header({"BK_User": "admin", "X-Bkapi-Request-Id": "rid-7"}, SUBMITTER)

    assert (kept["BK_User"], kept["X-Bkapi-Request-Id"]) == ("admin", "rid-7")
    assert "X-Bkcmdb-User" not in kept
    assert "Cc_Request_Id" not in kept


def test_nobody_can_act_in_another_account() -> None:
    given = {"HTTP_BLUEKING_SUPPLIER_ID": "0", "X-Bk-Tenant-Id": "other"}

    kept = completed_header(given, SUBMITTER)

    assert (kept["HTTP_BLUEKING_SUPPLIER_ID"], kept["X-Bk-Tenant-Id"]) == ("acme", "acme")


def test_a_name_that_no_header_can_hold_is_left_out() -> None:
    kept = completed_header({}, Submitter("管理员", "0"))

    assert set(kept) == {"X-Bkcmdb-Supplier-Account", "HTTP_BLUEKING_SUPPLIER_ID"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [({"Cc_Request_Id": "cc1"}, "cc1"), ({"Cc_Request_Id": "a b"}, None), ({"BK_User": "x"}, None)],
)
def test_the_request_id_is_the_trace_where_it_can_be_one(header: dict[str, str], expected: str | None) -> None:
    assert request_id(header) == expected
