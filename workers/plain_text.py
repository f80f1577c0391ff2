"""Text as PostgreSQL can keep it: no NUL, no half of a surrogate pair, lines that end in a newline.

One such character in a log chunk or an error message would break the transaction that records the outcome. What cannot be
kept becomes U+FFFD.
"""

import re

_REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")
_CARRIAGE_RETURNS_BEFORE_NEWLINE = re.compile(r"\r+\n")
_OVERWRITTEN = re.compile(r"[^\n]*\r")


def storable(text: str) -> str:
    """Return the text with what cannot be stored replaced."""
    if "\x00" in text:
        text = text.replace("\x00", _REPLACEMENT)
    return text if text.isascii() else _SURROGATE.sub(_REPLACEMENT, text)


def as_lines(text: str) -> str:
    """Return the text with every kind of line end as a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def as_shown(text: str) -> str:
    """Return what a terminal would show: of a line overwritten by carriage returns (a progress bar) only the last state."""
    if "\r" not in text:
        return text
    return _OVERWRITTEN.sub("", _CARRIAGE_RETURNS_BEFORE_NEWLINE.sub("\n", text))


def as_shown_so_far(text: str) -> str:
    """Return the last state of a line that is not whole yet; it may end in a carriage return that belongs to a newline."""
    body = text.rstrip("\r")
    return as_shown(body) + ("\r" if len(body) < len(text) else "")
