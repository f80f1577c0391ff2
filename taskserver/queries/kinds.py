"""The kinds that a submission or a definition names, as workers have registered them."""

from collections.abc import Collection, Mapping
from dataclasses import fields

from sqlalchemy import text

from schema.kinds import KindInfo, OnWorkerLost
from schema.roundtrip import AnyConnection, Request, Row, fetch_together

_COLUMNS = [one.name for one in fields(KindInfo)]
_KINDS = text(f"SELECT {', '.join(_COLUMNS)} FROM kinds WHERE name = ANY (CAST(:names AS text[])) OR :all")


def load_kinds(connection: AnyConnection, names: Collection[str]) -> Mapping[str, KindInfo]:
    """Return the named kinds; all of them when one is missing, so that an error can tell the nearest."""
    kinds = _ask(connection, sorted(names), everything=False)
    return kinds if len(kinds) == len(names) else _ask(connection, [], everything=True)


def _ask(connection: AnyConnection, names: list[str], *, everything: bool) -> dict[str, KindInfo]:
    [rows] = fetch_together(connection, [Request(_KINDS, {"names": names, "all": everything})])
    return {row["name"]: _kind(row) for row in rows}


def _kind(row: Row) -> KindInfo:
    result_schema, on_worker_lost = row["result_schema"] or {}, OnWorkerLost(row["on_worker_lost"])
    return KindInfo(**{**row, "result_schema": result_schema, "on_worker_lost": on_worker_lost})
