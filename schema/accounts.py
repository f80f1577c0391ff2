"""What the name of an account may look like: one rule for principals, for handler modules and for callers of Python."""

import re

from schema.errors import InvalidArgument

OWNER_ACCOUNT = "0"
ACCOUNT_PATTERN = "[A-Za-z0-9_.@-]{1,128}"
ACCOUNT_SPELLING = "1 to 128 letters, digits, '_', '.', '@' and '-'"
_SHOWN = 60


def check_account(account: object) -> str:
    """Return the account.

    Raises:
        InvalidArgument: It is no name of an account.

    """
    if isinstance(account, str) and re.fullmatch(ACCOUNT_PATTERN, account):
        return account
    shown = repr(account)
    cut = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    raise InvalidArgument(f"account {cut} is none: use {ACCOUNT_SPELLING}", target="account")
