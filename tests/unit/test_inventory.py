import json
from pathlib import Path

import pytest

from workers.context import Context
from workers.handlers.inventory import (
    FILE,
    PAGE,
    Change,
    Changes,
    Entry,
    Inventory,
    Measured,
    compare,
    discover,
    measure,
    merge,
    report,
)

CONTEXT = Context()


def plant(directory: Path, name: str, version: str, files: dict[str, str], *, record: bool = True) -> None:
    metadata = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for file, content in files.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(content)
    if record:
        (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def measured(name: str, version: str = "1.0", digest: str = "d") -> Measured:
    return Measured(name, version, "/site", files=2, bytes=10, digest=digest)


def inventory_of(*all_: Measured) -> Inventory:
    return merge(list(all_))


def test_discover_finds_each_name_once_as_python_would_in_the_order_of_names(tmp_path: Path) -> None:
    plant(tmp_path / "first", "Zebra", "2.0", {})
    plant(tmp_path / "second", "zebra", "1.0", {})
    plant(tmp_path / "second", "My.Ant_Hill", "1.0", {})

    found = discover(CONTEXT, [str(tmp_path / "first"), str(tmp_path / "second")], ["zebra", "gone"])

    assert [(one.name, one.version) for one in found.distributions] == [("my-ant-hill", "1.0"), ("zebra", "2.0")]
    assert found.unexpected == ["my-ant-hill"]
    assert found.missing == ["gone"]


def test_measure_counts_files_and_bytes_and_leaves_compiled_files_out(tmp_path: Path) -> None:
    plant(tmp_path, "ant", "1.0", {"ant/a.py": "12345", "ant/__pycache__/a.pyc": "compiled", "ant/b.py": "678"})
    metadata = sum(one.stat().st_size for one in (tmp_path / "ant-1.0.dist-info").iterdir())

    found = measure(CONTEXT, "ant", [str(tmp_path)])

    assert (found.name, found.version, found.location) == ("ant", "1.0", str(tmp_path))
    assert found.files == 4
    assert found.bytes == 8 + metadata


@pytest.mark.parametrize(
    "change", [{"ant.py": "other"}, {"METADATA": "Metadata-Version: 2.1\nName: ant\nVersion: 1.1\n"}]
)
@pytest.mark.parametrize("record", [True, False])
def test_the_digest_tells_each_change_of_what_belongs_to_the_distribution(
    tmp_path: Path, change: dict[str, str], *, record: bool
) -> None:
    plant(tmp_path, "ant", "1.0", {"ant.py": "one"}, record=record)
    before = measure(CONTEXT, "ant", [str(tmp_path)])
    same = measure(CONTEXT, "ant", [str(tmp_path)])

    for file, content in change.items():
        directory = tmp_path / "ant-1.0.dist-info" if file == "METADATA" else tmp_path
        (directory / file).write_text(content)
    after = measure(CONTEXT, "ant", [str(tmp_path)])

    belongs = record or "METADATA" in change  # without a record nobody knows whose the module is
    assert same == before
    assert (after.digest != before.digest) is belongs


def test_measure_tells_files_that_swapped_their_contents_apart(tmp_path: Path) -> None:
    plant(tmp_path / "one", "ant", "1.0", {"a.py": "x", "b.py": "y"})
    plant(tmp_path / "two", "ant", "1.0", {"a.py": "y", "b.py": "x"})

    one, two = (measure(CONTEXT, "ant", [str(tmp_path / name)]) for name in ("one", "two"))

    assert one.digest != two.digest


def test_a_distribution_that_has_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="gone is not installed any more"):
        measure(CONTEXT, "gone", [str(tmp_path)])


def test_merge_adds_up_and_keeps_what_tells_a_change() -> None:
    merged = inventory_of(measured("b"), measured("a", "2.0", "e"))

    assert merged == Inventory(4, 20, {"a": Entry("2.0", "e"), "b": Entry("1.0", "d")})
    assert list(merged.entries) == ["a", "b"]


def test_merge_of_many_distributions_fits_a_result() -> None:
    many = inventory_of(*(measured(f"distribution-number-{number}", digest="0" * 64) for number in range(1_500)))

    size = len(json.dumps({name: [entry.version, entry.digest] for name, entry in many.entries.items()}))

    assert size < 256 * 1024


def test_without_a_last_inventory_nothing_has_changed(tmp_path: Path) -> None:
    assert compare(CONTEXT, inventory_of(measured("a")), str(tmp_path)) == Changes(None, [], [], [])


def test_what_a_report_keeps_is_what_the_next_run_compares_with(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "anew"
    before = [measured("goes"), measured("newer"), measured("other"), measured("same")]
    report(CONTEXT, before, inventory_of(*before), Changes(None, [], [], []), str(directory))

    now = inventory_of(
        measured("comes"), measured("newer", "1.1", "e"), measured("other", "1.0", "f"), measured("same")
    )
    changes = compare(CONTEXT, now, str(directory))

    assert changes.since is not None
    assert changes.added == ["comes"]
    assert changes.removed == ["goes"]
    assert changes.changed == [Change("newer", "1.0", "1.1"), Change("other", "1.0", "1.0")]


def test_the_page_shows_changes_and_trusts_no_name(tmp_path: Path) -> None:
    changes = Changes("yesterday", ["<b>new</b>"], [], [Change("newer", "1.0", "1.1"), Change("other", "1.0", "1.0")])

    written = report(CONTEXT, [measured("<i>a</i>")], inventory_of(measured("<i>a</i>")), changes, str(tmp_path))
    text = Path(written.page).read_text()

    assert "&lt;b&gt;new&lt;/b&gt;" in text
    assert "&lt;i&gt;a&lt;/i&gt;" in text
    assert "<i>" not in text
    assert "newer: 1.0 → 1.1" in text
    assert "other: 1.0, other files" in text
    assert "Removed" not in text


def test_report_leaves_only_whole_files(tmp_path: Path) -> None:
    report(CONTEXT, [measured("a")], inventory_of(measured("a")), Changes(None, [], [], []), str(tmp_path))

    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([FILE, PAGE])


def test_an_inventory_that_is_none_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")

    with pytest.raises(ValueError, match="remove it to begin anew"):
        compare(CONTEXT, inventory_of(), str(tmp_path))
