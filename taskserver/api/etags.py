"""Which version of an answer a caller has already: ETags as If-None-Match gives them."""

from typing import Annotated

from fastapi import Header

IfNoneMatch = Annotated[str | None, Header(description="An ETag that the caller has already: 304 while it holds.")]


def quoted(tag: str) -> str:
    """Return the tag as the ETag header shows it."""
    return f'"{tag}"'


def is_known(tag: str, if_none_match: str | None) -> bool:
    """Tell whether the caller has this version."""
    if if_none_match is None:
        return False
    tags = {one.strip().removeprefix("W/").strip('"') for one in if_none_match.split(",")}
    return tag in tags or "*" in tags
