"""The inventory as a page for people: one HTML file that needs nothing else."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.9em}"
)


def page(document: Mapping[str, Any]) -> str:
    """Return the page of an inventory as it is kept."""
    rows = "".join(_row(one) for one in document["distributions"])
    count = len(document["distributions"])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Python distributions</title>'
        f"<style>{_STYLE}</style><h1>Python distributions</h1>"
        f"<p>{escape(document['taken_at'])}: {count} distributions, {document['files']:,} files, "
        f"{document['bytes']:,} bytes. Task <code>{escape(document['task'])}</code>.</p>"
        f"{_changes(document['changes'])}"
        "<h2>All</h2><table><tr><th>Name<th>Version<th>Files<th>Bytes<th>SHA-256<th>Location</tr>"
        f"{rows}</table></html>\n"
    )


def _changes(changes: Mapping[str, Any]) -> str:
    if changes["since"] is None:
        return "<h2>Changes</h2><p>This is the first inventory.</p>"
    parts = [
        _list("Added", changes["added"]),
        _list("Removed", changes["removed"]),
        _list("Changed", [f"{one['name']}: {_versions(one)}" for one in changes["changed"]]),
    ]
    found = "".join(parts) or "<p>None.</p>"
    return f"<h2>Changes since {escape(changes['since'])}</h2>{found}"


def _versions(change: Mapping[str, str]) -> str:
    before, after = change["before"], change["after"]
    return f"{before} → {after}" if before != after else f"{before}, other files"


def _list(title: str, items: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(one)}" for one in items)
    return f"<h3>{title}</h3><ul>{lines}</ul>" if lines else ""


def _row(one: Mapping[str, Any]) -> str:
    name, version, location = (escape(str(one[member])) for member in ("name", "version", "location"))
    return (
        f'<tr><td>{name}<td>{version}<td class="n">{one["files"]:,}<td class="n">{one["bytes"]:,}'
        f"<td><code>{escape(one['digest'][:16])}</code><td>{location}</tr>"
    )
