import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskserver.principals import Role, Tokens
from taskserver.queries.principals import PrincipalRow

TOKENS = Tokens("a secret key")


def row(name: str = "alice", serial: int = 1) -> PrincipalRow:
    return PrincipalRow(name, "TASK_VIEWER", "0", serial, datetime.now(UTC))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 2**31 - 1))
def test_a_token_tells_its_owner_whatever_the_name(name: str, serial: int) -> None:
    token = TOKENS.token(name, serial)

    assert TOKENS.owner(token) == name
    assert TOKENS.belongs_to(token, row(name, serial))
    assert token.isascii()


@given(st.data())
def test_a_token_with_any_character_changed_is_nobodys(data: st.DataObject) -> None:
    token = TOKENS.token("alice", 12)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda char: char != token[place]))
    changed = token[:place] + other + token[place + 1 :]

    owner = TOKENS.owner(changed)

    assert owner is None


@given(st.text())
def test_any_text_can_be_shown_as_a_token(text: str) -> None:
    assert TOKENS.owner(text) is None


def test_a_token_of_an_earlier_serial_belongs_to_nobody_any_more() -> None:
    token = TOKENS.token("alice", 1)

    assert TOKENS.owner(token) == "alice"
    assert not TOKENS.belongs_to(token, row(serial=2))


def test_another_key_makes_other_tokens() -> None:
    assert TOKENS.owner(Tokens("another key").token("alice", 1)) is None


def test_name_and_serial_cannot_run_into_each_other() -> None:
    forged = TOKENS.token("1.alice", 1).split(".")
    encoded = base64.urlsafe_b64encode(b"alice").rstrip(b"=").decode()

    assert TOKENS.owner(".".join([forged[0], encoded, "1", forged[3]])) is None


def test_the_given_administrators_token_is_the_only_one() -> None:
    tokens = Tokens("a secret key", "any text: even this")

    assert tokens.owner("any text: even this") == "admin"
    assert tokens.belongs_to("any text: even this", row("admin", 3))
    assert tokens.owner(TOKENS.token("admin", 1)) is None


@pytest.mark.parametrize("needed", list(Role))
def test_each_role_covers_itself_and_those_before_it(needed: Role) -> None:
    order = [Role.TASK_VIEWER, Role.TASK_SUBMITTER, Role.TASK_MANAGER, Role.ADMIN]

    covering = [role for role in order if role.covers(needed)]

    assert covering == order[order.index(needed) :]
